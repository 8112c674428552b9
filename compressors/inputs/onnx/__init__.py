"""ONNX files: the gate, the operators as torch functions, and the network that they make."""
