"""One HTML page in which a mapped scan is explored."""
