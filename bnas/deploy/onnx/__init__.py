"""A packed network as an ONNX graph, for the runtimes that read ONNX."""
