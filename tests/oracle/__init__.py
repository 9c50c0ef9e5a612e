"""Reference data made by other programs; every folder holds its generator and where it came from."""
