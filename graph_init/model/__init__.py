"""Reading ONNX models and writing them back with only chosen tensors changed."""

from graph_init.model.load import LoadedModel, load
from graph_init.model.save import save, with_values

__all__ = ["LoadedModel", "load", "save", "with_values"]
