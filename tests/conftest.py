"""Tests compute on one thread each: they run beside one another."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
