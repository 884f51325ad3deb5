"""Devices, measuring, profiling, and predicting the latency of a network from what it computes. Imports no torch."""
