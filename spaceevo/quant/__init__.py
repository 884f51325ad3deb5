"""LSQ+ quantizers, their calibration, and the int8 graph that export consumes."""
