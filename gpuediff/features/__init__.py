"""Fixed-length vectors from ragged peak lists."""
