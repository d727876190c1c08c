"""The draft step as ONNX: two graphs, their weights as they lie in the checkpoint, and a check against `model`."""
