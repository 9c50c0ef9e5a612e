"""How good the answers are: metrics and their pictures."""
