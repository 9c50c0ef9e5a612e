"""Forests: trained with scikit-learn or LightGBM, kept as treelite checkpoints, one prediction path for all."""
