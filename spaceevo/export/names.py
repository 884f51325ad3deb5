"""What exported files call their input and outputs: the exporters write these names and the runners look for them."""

INPUT_NAME = "input"
OUTPUT_NAME = "output"
VIEW_SUFFIX = "_dq"  # of the float views of tensors in ONNX, where one name cannot serve two types
