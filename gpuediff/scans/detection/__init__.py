"""From the raw frames of a detector to calibrated Bragg peaks."""
