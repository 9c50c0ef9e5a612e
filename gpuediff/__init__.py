"""gpuediff: what crystal is this? Random forests on electron diffraction patterns, on GPU and CPU."""

__version__ = "0.1.0"
