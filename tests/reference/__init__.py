"""Slow, obvious float64 versions of what the package computes fast."""
