"""Colours of the pictures of an evaluation: Okabe & Ito, told apart by colour-blind readers."""

KINDS = {"single": "#56b4e9", "aggregate": "#0072b2"}
AXES = {"a": "#0072b2", "b": "#e69f00", "c": "#009e73"}
SIDES = {"train": "#999999", "test": "#d55e00"}
CONFIDENCES = {"confidence": "#e69f00", "probability": "#009e73"}
ONE = "#0072b2"  # where there is nothing to be told apart
REFERENCE = "0.45"  # lines to compare with
EMPTY = "#f2f2f2"  # cells without a value
