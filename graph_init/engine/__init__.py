"""The engine: graphs that run on onnxruntime, and the memory that they take."""
