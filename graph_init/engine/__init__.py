"""Engines: graphs that run on onnxruntime or PyTorch, and the memory that they take."""
