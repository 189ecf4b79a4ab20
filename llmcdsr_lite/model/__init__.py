"""The models in NumPy, forward and backward beside each other; their ONNX graphs, and the backends."""
