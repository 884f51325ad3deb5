"""Design search spaces, supernets and fast INT8 networks for real devices."""

__version__ = "0.1.0"
