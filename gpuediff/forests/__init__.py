"""Random forests: trained with scikit-learn, kept as treelite checkpoints, one prediction path for both."""
