"""4D-STEM scans: reading, mapping, particles, pictures, export."""
