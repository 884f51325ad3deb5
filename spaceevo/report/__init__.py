"""What people read: descriptions of spaces and subnets, figures and the summary of a run, and what a machine can do.

The package itself imports nothing, so that a code is described without torch or matplotlib.
"""
