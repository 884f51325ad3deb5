"""Datasets: made or read once into three fixed splits, then served as batches in a reproducible order."""
