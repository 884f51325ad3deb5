"""Int8 graph → ONNX and TFLite files, runners for both, and their verification against the trained network."""
