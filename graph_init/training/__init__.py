"""Short training runs on onnxruntime: one graph a step, many runs at a time."""
