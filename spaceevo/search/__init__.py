"""Accuracy LUT, Q-T score, evolution of spaces, and the search for subnets."""
