"""The one place that touches onnxruntime-training's gradient builder.

Another builder can take its place by offering the same function.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from graph_init.errors import EngineError, UnsupportedModelError

_REMEDY = "run `pip install 'graph-init[cpu]'`, or `graph-init doctor` to see what is installed"


def build_gradient(model: onnx.ModelProto, loss: str, parameters: Sequence[str]) -> onnx.ModelProto:
    """Append to ``model`` the nodes that compute d loss / d parameter.

    ``parameters`` names graph inputs; the gradient of ``p`` is the value ``p + "_grad"``. The
    result holds the forward nodes too. Raises :class:`UnsupportedModelError` with the builder's
    words where an operator has no gradient.
    """
    try:
        from onnxruntime import SessionOptions
        from onnxruntime.capi import _pybind_state as engine
    except ImportError as error:
        raise EngineError(f"onnxruntime cannot be imported ({error}); {_REMEDY}") from error
    if not hasattr(engine, "GradientGraphBuilder"):
        raise EngineError(f"the installed onnxruntime is not a training build; {_REMEDY}")
    options = SessionOptions()
    options.log_severity_level = 3
    try:
        builder = engine.GradientGraphBuilder(
            model.SerializeToString(), {loss}, set(parameters), loss, options
        )
        builder.build()
        return onnx.load_from_string(builder.get_model())
    except Exception as error:  # the engine raises RuntimeError and its own Fail alike
        raise UnsupportedModelError(f"no gradient could be built: {error}") from error
