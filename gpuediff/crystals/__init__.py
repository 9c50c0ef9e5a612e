"""Crystal structures: where they come from, their symmetry, and the labels that models learn."""
