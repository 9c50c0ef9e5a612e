"""The pattern library: simulated patterns of many materials in one HDF5 file."""
