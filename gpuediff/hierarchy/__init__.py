"""The hierarchy of forests: crystal system, then space group and lattice, with confidences, and its bundle on disk."""
