"""The crystal lattice, from one pattern or from several patterns of one material."""
