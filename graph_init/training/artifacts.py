"""Training artifacts for ONNX Runtime's on-device training, from the lowered graph.

The four files are those that ``onnxruntime.training.api`` reads: a training model (loss, gradients
and their accumulation), an evaluation model, an optimizer model and a checkpoint. Since operators
are lowered first, models can be trained whose gradients ``generate_artifacts`` cannot build.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graph_init.autodiff import primal
from graph_init.engine.choice import AUTO, Engine
from graph_init.engine.runtime import TRAINING as RUNTIME
from graph_init.engine.runtime import bindings
from graph_init.errors import OutputError, UsageError
from graph_init.ir import IR_VERSION, MICROSOFT, OPSET, Array, Value
from graph_init.output import folders, scratch
from graph_init.problem.forward_graph import Problem

TRAINING, EVALUATION = "training_model.onnx", "eval_model.onnx"
OPTIMIZER, CHECKPOINT = "optimizer_model.onnx", "checkpoint"
FILES = (TRAINING, EVALUATION, OPTIMIZER, CHECKPOINT)
LOSS = "loss"

#: Names of ONNX Runtime's conventions (onnxruntime.training.onnxblock, release 1.19).
_GRADIENT, _BUFFER, _ACCUMULATED = "_grad", ".accumulation.buffer", ".accumulation.out"
_RESET = "lazy_reset_grad"
#: What will run the files: the training build's operators, whatever computes here.
_READER = Engine(AUTO, RUNTIME, own=True)


def write(problem: Problem, values: Mapping[str, Array], optimizer: str, folder: Path) -> None:
    """Write the four files into ``folder``, which is made if it is not there; all or none.

    ``values`` holds the trainable parameters, which start where they are. Shapes are static: the
    batch has the problem's size.
    """
    if optimizer not in _OPTIMIZERS:
        raise UsageError(f"--optimizer is one of {', '.join(_OPTIMIZERS)}, not '{optimizer}'")
    training, moved = _training(problem)
    trainable = [numpy_helper.from_array(values[n], n) for n in moved]
    still = [p.name for p in problem.parameters if p.name not in moved]
    frozen = {n: values[n] for n in still} | dict(problem.fed)
    with folders.replaced(folder) as at:
        onnx.save(training, at / TRAINING)
        onnx.save(_evaluation(problem), at / EVALUATION)
        onnx.save(_optimizer(optimizer), at / OPTIMIZER)
        fixed = [numpy_helper.from_array(np.ascontiguousarray(a), n) for n, a in frozen.items()]
        _save_checkpoint(trainable, fixed, at / CHECKPOINT)


def _save_checkpoint(
    trainable: Sequence[TensorProto], frozen: Sequence[TensorProto], path: Path
) -> None:
    given = [[t.SerializeToString() for t in tensors] for tensors in (trainable, frozen)]
    try:
        bindings().save_checkpoint(*given, str(path), False)
    except UnicodeEncodeError:  # the engine takes names that are text
        with tempfile.TemporaryDirectory(prefix=scratch.PREFIX) as folder:
            _save_checkpoint(trainable, frozen, Path(folder) / path.name)
            shutil.copyfile(Path(folder) / path.name, path)
    except RuntimeError as error:  # of the engine, which does not tell what the system said
        size = sum(len(t) for tensors in given for t in tensors)
        raise OutputError(
            f"the engine cannot write '{path.name}' into {path.parent.parent}; it takes "
            f"{size / 1e6:.1f} MB, and {shutil.disk_usage(path.parent).free / 1e6:.1f} MB are free"
        ) from error


def _training(problem: Problem) -> tuple[onnx.ModelProto, list[str]]:
    """Loss and accumulated gradients; and the names of the parameters that have one."""
    names = [p.name for p in problem.parameters]
    p = primal.build(problem.forward, problem.objective.loss.name, names, engine=_READER)
    b = p.builder
    outputs = [_named(b.barrier(p.loss), LOSS)]
    for n, gradient in p.gradients.items():
        outputs.append(_named(b.barrier(gradient), n + _GRADIENT))
    model = b.program(outputs).model
    graph = model.graph
    _order_inputs(graph, names)
    del graph.output[1:]
    for n, output in zip(p.gradients, outputs[1:], strict=True):
        buffer, done = n + _GRADIENT + _BUFFER, n + _GRADIENT + _ACCUMULATED
        graph.input.append(helper.make_tensor_value_info(buffer, output.dtype, output.dims))
        graph.output.append(helper.make_tensor_value_info(done, TensorProto.BOOL, [1]))
        graph.node.append(
            helper.make_node(
                "InPlaceAccumulatorV2",
                [buffer, output.name, _RESET],
                [done],
                f"accumulate {n}",
                domain=MICROSOFT,
            )
        )
    graph.input.append(helper.make_tensor_value_info(_RESET, TensorProto.BOOL, [1]))
    return model, list(p.gradients)


def _evaluation(problem: Problem) -> onnx.ModelProto:
    """The loss and the model's own float outputs, under their names."""
    b = problem.builder
    outputs = [_named(b.barrier(problem.objective.loss), LOSS)]
    outputs += [_named(b.barrier(v), n) for n, v in problem.outputs.items() if n != LOSS]
    model = b.program(outputs).model
    _order_inputs(model.graph, [p.name for p in problem.parameters])
    return model


def _named(value: Value, name: str) -> Value:
    value.name = name
    return value


def _order_inputs(graph: onnx.GraphProto, parameters: Sequence[str]) -> None:
    """The batch first, as ``Module.__call__`` takes it; then the parameters."""
    inputs = sorted(graph.input, key=lambda i: i.name in set(parameters))
    del graph.input[:]
    graph.input.extend(inputs)


def _optimizer(name: str) -> onnx.ModelProto:
    """The update of all parameters by one node, which takes them as sequences."""
    op, sequences, attributes = _OPTIMIZERS[name]
    single = [
        helper.make_tensor_value_info("learning_rate", TensorProto.FLOAT, [1]),
        helper.make_tensor_value_info("step", TensorProto.INT64, [1]),
    ]
    many = [
        helper.make_tensor_sequence_value_info(s, TensorProto.FLOAT, None)
        for s in ("params", "gradients", "first_order_moments", "second_order_moments")
        if s in sequences or s == "first_order_moments"
    ]
    node = helper.make_node(op, list(sequences), ["updated"], op, domain=MICROSOFT)
    node.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
    done = [helper.make_tensor_value_info("updated", TensorProto.BOOL, [1])]
    graph = helper.make_graph([node], "graph-init", [*single, *many], done)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


#: Operator, its inputs, its attributes. adamw: PyTorch's defaults, without weight decay.
_OPTIMIZERS: dict[str, tuple[str, tuple[str, ...], dict[str, float | int]]] = {
    "adamw": (
        "AdamWOptimizer",
        (
            "learning_rate",
            "step",
            "params",
            "gradients",
            "first_order_moments",
            "second_order_moments",
        ),
        {
            "alpha": 0.9,
            "beta": 0.999,
            "epsilon": 1e-8,
            "weight_decay": 0.0,
            "correct_bias": 1,
            "adam_mode": 0,
        },
    ),
    "sgd": ("SGDOptimizerV2", ("learning_rate", "params", "gradients"), {}),
}
