"""Elastic networks: what each block computes (`blocks`, `plan`), and the torch modules that compute it."""

import os

# oneDNN compiles a kernel for every shape of a layer and keeps the last 1,024. Random subnets have several thousand
# shapes, which would be compiled anew in every training step. Read at the first convolution of a process.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")
