"""Elastic networks: what each block computes (`blocks`, `plan`), and the torch modules that compute it."""
