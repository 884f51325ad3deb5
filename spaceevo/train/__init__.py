"""Losses and training loops: teacher, blocks, supernet; recalibration and evaluation of subnets."""
