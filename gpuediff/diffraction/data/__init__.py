"""Tabulated parameters of atomic scattering factors, with their sources in the head of each table."""
