"""The study of a device: what operations, blocks and widths cost there, in INT8 and in FP32."""
