"""graph-init: scales of initial weights for any model that can be exported to ONNX."""

from graph_init.api import (
    apply,
    check,
    compare,
    initialize,
    inspect,
    measure,
    write_artifacts,
)
from graph_init.check import Finding
from graph_init.comparison import Comparison, Plan
from graph_init.deviation.evaluator import Measurement
from graph_init.deviation.result import ParameterMeasurement
from graph_init.errors import GraphInitError
from graph_init.options import MetaInit, Restore
from graph_init.results import Applied, CheckResult, Initialized, Inspection
from graph_init.tuning.loop import HistoryEntry
from graph_init.version import __version__

__all__ = [
    "Applied",
    "CheckResult",
    "Comparison",
    "Finding",
    "GraphInitError",
    "HistoryEntry",
    "Initialized",
    "Inspection",
    "Measurement",
    "MetaInit",
    "ParameterMeasurement",
    "Plan",
    "Restore",
    "__version__",
    "apply",
    "check",
    "compare",
    "initialize",
    "inspect",
    "measure",
    "write_artifacts",
]
