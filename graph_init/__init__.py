"""graph-init: scales of initial weights for any model that can be exported to ONNX."""

from graph_init.api import (
    Applied,
    Initialized,
    Inspection,
    apply,
    initialize,
    inspect,
    measure,
)
from graph_init.errors import GraphInitError
from graph_init.evaluation import Measurement
from graph_init.version import __version__

__all__ = [
    "Applied",
    "GraphInitError",
    "Initialized",
    "Inspection",
    "Measurement",
    "__version__",
    "apply",
    "initialize",
    "inspect",
    "measure",
]
