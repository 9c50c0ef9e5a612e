"""Dynamical electron diffraction: scattering factors, structure potential, orientations, beams, Bloch propagation."""
