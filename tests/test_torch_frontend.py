"""graph_init_torch: modules initialised in place, against PyTorch itself."""

from __future__ import annotations

import copy
import errno
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("sklearn")

import onnxruntime
from torch import nn
from torch.utils import _pytree as pytree

import graph_init
import graph_init_torch
from graph_init import options
from graph_init.errors import (
    NumericalError,
    OutputError,
    UnsupportedModelError,
    UsageError,
)
from graph_init.frontends.correspondence import bind
from graph_init.tuning import registry
from graph_init.tuning.loop import TuningResult
from graph_init_torch import frontend
from tests import torch_oracle
from tests.torch_models import CASES, PlainCNN, Recurrent, Tied
from tools import rescue

#: Exporting these takes longest, and the others have what they have.
LONG = frozenset({"Mamba", "ViT"})


class Drawn:
    """A tuner that gives every tensor a factor of its own, so that a mistaken one is seen."""

    def __init__(self, settings: Any, run: Any, *_: Any) -> None:
        self._count = len(run.scaled)

    def __call__(self, *_: Any) -> TuningResult:
        scales = np.random.default_rng(1).uniform(0.4, 2, self._count)
        return TuningResult(scales, 0, [], False)

    def ready(self) -> None: ...


@pytest.fixture(autouse=True)
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    class Settings(options.Tuner):
        name = "drawn"

    monkeypatch.setitem(options.TUNERS, "drawn", Settings)
    monkeypatch.setitem(registry.PREPARE, Settings, Drawn)
    torch.manual_seed(0)
    yield


def parametrized(names: Any, long: frozenset[str] = frozenset()) -> list[Any]:
    return [pytest.param(n, marks=pytest.mark.long if n in long else ()) for n in names]


def tensors(value: Any) -> list[Any]:
    """The tensors in what a module returns."""
    return [t for _, t in frontend._outputs(value)]


def evaluated(module: nn.Module, args: Any, kwargs: Any) -> list[np.ndarray]:
    """The outputs in evaluation mode, half precision computed in float32."""
    twin = copy.deepcopy(module) if not has_computed_weights(module) else module
    mode = twin.training
    args, kwargs = frontend.as_float32((args, kwargs))
    if any(p.dtype in (torch.float16, torch.bfloat16) for p in twin.parameters()):
        twin = twin.float()
    with torch.no_grad():
        found = [t.numpy().copy() for t in tensors(twin.eval()(*args, **kwargs))]
    twin.train(mode)
    return found


def has_computed_weights(module: nn.Module) -> bool:
    """Whether deepcopy refuses: torch.nn.utils.weight_norm leaves computed tensors behind."""
    return any(
        isinstance(v, torch.Tensor) and not v.is_leaf
        for part in module.modules()
        for v in vars(part).values()
    )


def run_onnx(model: Any, args: Any, kwargs: Any) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    leaves = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    feeds = {i.name: frontend.array(x) for i, x in zip(session.get_inputs(), leaves, strict=True)}
    return session.run(None, feeds)


def mostly_equal(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for a, b in zip(found, expected, strict=True):
        scale = np.abs(b).max()
        np.testing.assert_allclose(a / scale, b / scale, atol=2e-5)


@pytest.mark.parametrize("name", parametrized(CASES, LONG))
def test_the_module_and_the_onnx_model_after_initialisation(name: str) -> None:
    case = CASES[name]
    module = case.build().train()
    args, kwargs = case.args(), case.kwargs()
    before = {n: v.clone() for n, v in module.state_dict().items()}
    objects = {n: id(p) for n, p in module.named_parameters(remove_duplicate=False)}
    needs = {n: p.requires_grad for n, p in module.named_parameters(remove_duplicate=False)}
    random = torch.random.get_rng_state()

    result = graph_init_torch.initialize_(
        module, args, kwargs, tuner="drawn", **(case.options or {})
    )

    # What is not a weight is as it was.
    assert result.updated is module
    assert all(part.training for part in module.modules())
    assert torch.equal(random, torch.random.get_rng_state())
    after = module.state_dict()
    assert list(after) == list(before)
    assert {n: id(p) for n, p in module.named_parameters(remove_duplicate=False)} == objects
    assert {n: p.requires_grad for n, p in module.named_parameters(remove_duplicate=False)} == needs

    # Every tensor is its old value times one factor, which is 1 for what does not scale.
    owner = {id(own): n for n, own in list(module.named_parameters())[::-1]}
    canonical = {n: owner.get(id(p), n) for n, p in module.named_parameters(remove_duplicate=False)}
    assert result.scales and set(result.scales) <= {n for n in needs if needs[n]}
    for n, old in before.items():
        assert after[n].dtype == old.dtype
        factor = result.scales.get(canonical.get(n, n))
        if factor is None:
            assert torch.equal(after[n], old)
        else:
            assert abs(factor - 1) > 1e-3
            assert torch.equal(after[n], (old.double() * factor).to(old.dtype))

    # ONNX agrees with PyTorch.
    mostly_equal(run_onnx(result.model, args, kwargs), evaluated(module, args, kwargs))

    # Training goes on from there.
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        loss = sum(t.float().square().mean() for t in tensors(module(*args, **kwargs)))
        loss.backward()
        optimizer.step()
    assert torch.isfinite(loss)
    moved = {n for n, v in module.state_dict().items() if not torch.equal(v, before[n])}
    assert set(result.scales) <= moved
    assert not moved & {n for n, needed in needs.items() if not needed}


EXPECTED = {
    "tied embedding": {"embed.weight", "mix.weight"},
    "shared submodules": {"inward.weight", "step.weight", "outward.weight"},
    "frozen": {"position", "head.weight"},
    "LSTM": {"embed.weight", "head.weight"}
    | {f"core.weight_{k}_l{n}" for k in ("ih", "hh") for n in (0, 1)},
    "TransformerEncoder": {"head.weight"}
    | {
        f"encoder.layers.{n}.{k}.weight"
        for n in (0, 1)
        for k in ("self_attn.out_proj", "linear1", "linear2")
    }
    | {f"encoder.layers.{n}.self_attn.in_proj_weight" for n in (0, 1)},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_which_tensors_scale(name: str) -> None:
    case = CASES[name]
    module = case.build()
    found = graph_init.inspect(module, args=case.args(), kwargs=case.kwargs())
    assert {p.name for p in found.parameters if p.scalable} == EXPECTED[name]
    buffers = {n for n, _ in module.named_buffers()}
    trained = {p.name for p in found.parameters if p.trainable}
    assert not trained & buffers
    wanted = {n for n, p in module.named_parameters() if p.requires_grad and "unused" not in n}
    assert trained == wanted


@pytest.mark.exact("PyTorch is given the module's own weights")
def test_gradient_deviation_is_that_of_the_modules_own_parameters() -> None:
    """Against triple backprop, on a model with tied weights and a buffer like a weight."""
    module, ids = Tied(), torch.randint(0, 20, (4, 7))
    data = {"ids": ids, "target": torch.randn(4, 7, 20)}
    found = graph_init_torch.measure(module, (ids,), data=data, scale_gradient=True)
    double = copy.deepcopy(module).double()
    oracle = torch_oracle.deviation(
        lambda: nn.functional.mse_loss(double(ids), data["target"].double()),
        dict(double.named_parameters()),
    )
    assert found.elements == sum(p.numel() for p in module.parameters())
    assert found.gradient_deviation == pytest.approx(oracle.gradient_deviation, rel=1e-2)
    slopes = {p.name: p.log_scale_gradient for p in found.parameters}
    for n in ("embed.weight", "mix.weight"):
        assert slopes[n] == pytest.approx(oracle.log_scale_gradient[n], rel=1e-2)


def test_the_recurrent_weights_know_their_fan_in() -> None:
    """The exporter cuts them into gates, so that the node does not say."""
    found = graph_init.inspect(Recurrent(nn.LSTM), args=CASES["LSTM"].args())
    fans = {p.name: p.fan_in for p in found.parameters if p.kind == "recurrent"}
    assert fans == {"core.weight_ih_l0": 6, "core.weight_hh_l0": 8}


@pytest.mark.parametrize("tuner", [options.Restore(updates=4), options.MetaInit(steps=4)])
def test_the_registry_are_those_of_the_core(tuner: options.Tuner) -> None:
    module = PlainCNN()
    with torch.no_grad():
        for p in module.parameters():
            p *= 0.05
    result = graph_init_torch.initialize_(
        module,
        (torch.randn(4, 3, 10, 10),),
        loss=nn.CrossEntropyLoss(),
        tuner=tuner,
    )
    assert result.provenance["graph_init.loss"] == "cross-entropy"
    assert result.provenance["graph_init.tuner"] == tuner.name
    assert result.history
    if tuner.name == "restore":  # weights are a twentieth of what they should be
        assert any(f > 1 for f in result.scales.values())


def test_a_network_that_does_not_train_is_rescued() -> None:
    """A plain network of 30 layers, from PyTorch's default."""
    images, labels = rescue.digits()
    module = rescue.plain(30)
    default = copy.deepcopy(module)
    graph_init_torch.initialize_(
        module, (images[: rescue.BATCH],), loss="cross-entropy", tuner="restore"
    )
    before, after = (
        rescue.train(state, images, labels, rate=0.003, updates=150) for state in (default, module)
    )
    assert before.last > 2.25  # log(10) = 2.30 is guessing
    assert after.last < 1.5


def test_a_scheme_fills_the_module() -> None:
    module = PlainCNN()
    result = graph_init_torch.initialize_(
        module, (torch.randn(4, 3, 10, 10),), scheme="orthogonal", steps=0, tuner="metainit"
    )
    weight = module.head.weight.detach()
    torch.testing.assert_close(weight @ weight.T, torch.eye(5), atol=1e-5, rtol=0)
    mostly_equal(
        run_onnx(result.model, (x := torch.randn(2, 3, 10, 10),), {}), evaluated(module, (x,), {})
    )


class Loader:
    """Batches that can be read again, as a DataLoader gives them."""

    def __init__(self, dtype: Any) -> None:
        self._dtype = dtype

    def __iter__(self) -> Iterator[list[Any]]:
        for seed in range(6):
            generator = torch.Generator().manual_seed(seed)
            image = torch.randn(4, 3, 10, 10, generator=generator, requires_grad=True)
            yield [image.to(self._dtype), torch.randint(0, 5, (4,), generator=generator)]


def test_batches_of_tensors_are_read() -> None:
    for data in (
        Loader(torch.float32),
        iter(Loader(torch.bfloat16)),
        {"image": torch.randn(8, 3, 10, 10), "target": torch.randint(0, 5, (8,))},
        torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(torch.randn(12, 3, 10, 10), torch.randint(0, 5, (12,))),
            batch_size=4,
        ),
    ):
        result = graph_init_torch.initialize_(
            PlainCNN(),
            (torch.randn(4, 3, 10, 10),),
            data=data,
            loss="cross-entropy",
            tuner="drawn",
        )
        assert np.isfinite(result.after.loss)


def test_compare_leaves_the_module_alone() -> None:
    module = PlainCNN()
    before = copy.deepcopy(module.state_dict())
    data = {"image": torch.randn(24, 3, 10, 10), "target": torch.randint(0, 5, (24,))}
    plan = graph_init.Plan(
        schemes=("keep",),
        seeds=1,
        updates=3,
        optimizers=("sgd",),
        tune=False,
        learning_rates=(0.01,),
    )
    found = graph_init_torch.compare(
        module, (data["image"][:4],), data=data, loss="cross-entropy", plan=plan, batch_size=4
    )
    assert found.runs
    assert all(torch.equal(v, before[n]) for n, v in module.state_dict().items())


def test_the_sizes_of_the_example_are_kept() -> None:
    """Rows are free, other sizes too where the user says so; the example's are then the default."""
    dim = torch.export.Dim
    ids = torch.randint(0, 20, (6, 9))
    model = graph_init_torch.export(
        Tied(), (ids,), dynamic_shapes=({0: dim("rows"), 1: dim("length")},)
    )
    (given,) = model.graph.input
    assert [d.dim_param for d in given.type.tensor_type.shape.dim] == ["rows", "length"]
    exported = frontend.export(
        Tied(), (ids,), {}, dynamic_shapes=({0: dim("rows"), 1: dim("length")},)
    )
    assert (exported.batch_size, exported.dims) == (6, {"length": 9})


def test_the_exported_file_has_the_modules_names(tmp_path: Path) -> None:
    module, path = Recurrent(nn.LSTM), tmp_path / "model.onnx"
    ids = torch.randint(0, 20, (3, 5))
    model = graph_init_torch.export(module, (ids,), path=path)
    assert path.read_bytes() == model.SerializeToString(deterministic=True)
    names = {i.name for i in model.graph.initializer}
    assert {n for n, _ in module.named_parameters()} <= names
    mostly_equal(run_onnx(model, (ids,), {}), evaluated(module, (ids,), {}))


def test_wrapped_and_compiled_modules_are_looked_into() -> None:
    inner = PlainCNN()
    before = inner.head.weight.detach().clone()
    example = (torch.randn(4, 3, 10, 10),)
    for module in (torch.compile(inner), nn.DataParallel(inner)):
        result = graph_init_torch.initialize_(module, example, tuner="drawn")
        assert result.updated is module and "head.weight" in result.scales
    assert not torch.equal(before, inner.head.weight)


def test_parameters_in_the_same_memory_are_tied() -> None:
    """Two objects, one memory: scaling each would scale it twice."""
    module = Tied()
    module.head.weight = nn.Parameter(module.embed.weight.data)
    before = module.embed.weight.detach().clone()
    result = graph_init_torch.initialize_(module, (torch.randint(0, 20, (4, 7)),), tuner="drawn")
    factor = result.scales["embed.weight"]
    assert "head.weight" not in result.scales
    assert torch.equal(module.head.weight, (before.double() * factor).float())


@pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason="it moves a module to a GPU, and PyTorch finds none; run on a machine with a GPU and a "
    "PyTorch built for CUDA",
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_module_on_a_gpu_stays_there(dtype: Any) -> None:
    module, example = Tied().to("cuda", dtype), torch.randint(0, 20, (4, 7), device="cuda")
    before = {n: v.clone() for n, v in module.state_dict().items()}
    result = graph_init_torch.initialize_(module, (example,), tuner="drawn")
    for n in ("embed.weight", "mix.weight"):
        new = module.state_dict()[n]
        assert new.device == before[n].device
        assert torch.equal(new, (before[n].double() * result.scales[n]).to(dtype))


def test_a_large_model_goes_through_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("graph_init.frontends.resolve._MESSAGE_LIMIT", 0)
    module, example = PlainCNN(), torch.randn(4, 3, 10, 10)
    result = graph_init_torch.initialize_(module, (example,), tuner="drawn")
    expected = evaluated(module, (example,), {})
    mostly_equal(run_onnx(result.model, (example,), {}), expected)
    result.save(tmp_path / "out.onnx")
    saved = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    assert any(i.external_data for i in saved.graph.initializer)
    mostly_equal(run_onnx(onnx.load(tmp_path / "out.onnx"), (example,), {}), expected)


def test_a_full_temporary_folder_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("graph_init.frontends.resolve._MESSAGE_LIMIT", 0)
    monkeypatch.setattr("onnx_ir.save", full)
    module = PlainCNN()
    before = {n: v.clone() for n, v in module.state_dict().items()}
    with pytest.raises(OutputError, match="No space left on device; set TMPDIR"):
        graph_init_torch.initialize_(module, (torch.randn(4, 3, 10, 10),))
    assert all(torch.equal(v, before[n]) for n, v in module.state_dict().items())


# ---- safetensors


def test_the_result_as_safetensors(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    module, path = Tied().bfloat16(), tmp_path / "init.safetensors"
    result = graph_init_torch.initialize_(module, (torch.randint(0, 20, (4, 7)),), tuner="drawn")
    graph_init_torch.save_safetensors(module, path, result)
    fresh = Tied().bfloat16()
    safetensors.load_model(fresh, path)
    for n, value in module.state_dict().items():
        assert torch.equal(fresh.state_dict()[n], value)
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata()["graph_init.tuner"] == "drawn"
    assert [f.name for f in tmp_path.iterdir()] == [path.name]


def test_tensors_that_are_parts_of_a_larger_one_are_written(tmp_path: Path) -> None:
    """As the weights of recurrent layers are on a GPU."""
    safetensors = pytest.importorskip("safetensors.torch")
    module, memory = nn.Linear(3, 2), torch.randn(8)
    module.weight = nn.Parameter(memory[:6].view(2, 3))
    module.bias = nn.Parameter(memory[6:])
    graph_init_torch.save_safetensors(torch.compile(module), tmp_path / "x.safetensors")
    found = safetensors.load_file(tmp_path / "x.safetensors")
    assert found.keys() == {"weight", "bias"}
    assert torch.equal(found["bias"], module.bias)


def test_safetensors_to_nowhere(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        graph_init_torch.save_safetensors(nn.Linear(2, 2), tmp_path / "no" / "x.safetensors")


# ---- what cannot be done


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) if x.sum() > 0 else x


class Bessel(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(x)


class Broken(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x).view(3, 1000)


FAILING: Mapping[str, tuple[nn.Module, str]] = {
    "data decides": (Branch(), r"submodule '1\.1' \(Branch\).*if x\.sum\(\) > 0"),
    "no such operator": (Bessel(), r"submodule '1\.1' \(Bessel\).*operator .*bessel_j0"),
    "wrong code": (Broken(), r"submodule '1\.1' \(Broken\).*view\(3, 1000\).*invalid"),
}


@pytest.mark.parametrize("name", FAILING)
def test_a_failing_export_names_the_part_and_changes_nothing(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    part, message = FAILING[name]
    module = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), part)).train()
    before = {n: v.clone() for n, v in module.state_dict().items()}
    capfd.readouterr()
    with pytest.raises(UnsupportedModelError, match=message):
        graph_init_torch.initialize_(module, (torch.randn(3, 4),), tuner="drawn")
    assert capfd.readouterr() == ("", "")
    assert all(torch.equal(v, before[n]) for n, v in module.state_dict().items())
    assert module.training


def test_values_that_do_not_fit_change_nothing() -> None:
    module = PlainCNN().half()
    with torch.no_grad():
        module.body[3].weight.view(-1)[::2] = 6e4
    before = {n: v.clone() for n, v in module.state_dict().items()}
    with pytest.raises(NumericalError, match="'body.3.weight' times .* does not fit float16"):
        graph_init_torch.initialize_(module, (torch.randn(4, 3, 10, 10),), tuner="drawn", seed=0)
    assert all(torch.equal(v, before[n]) for n, v in module.state_dict().items())


def test_a_write_that_fails_half_way_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    module = PlainCNN()
    before = {n: v.clone() for n, v in module.state_dict().items()}
    write, calls = frontend._write, []

    def failing(model: Any, originals: Any, values: Any) -> Any:
        calls.append(len(values))
        if len(calls) == 1:
            write(model, originals, dict(list(values.items())[:2]))
            raise MemoryError
        return write(model, originals, values)

    monkeypatch.setattr(frontend, "_write", failing)
    with pytest.raises(MemoryError):
        graph_init_torch.initialize_(module, (torch.randn(4, 3, 10, 10),), tuner="drawn")
    assert calls == [3, 3]
    assert all(torch.equal(v, before[n]) for n, v in module.state_dict().items())


MISTAKES: Mapping[str, tuple[Any, str]] = {
    "no example": (lambda: graph_init_torch.measure(nn.Linear(4, 2)), "needs an example"),
    "no tuple": (
        lambda: graph_init_torch.measure(nn.Linear(4, 2), torch.randn(3, 4)),
        r"write \(x,\)",
    ),
    "too many": (
        lambda: graph_init_torch.measure(nn.Linear(4, 2), (torch.randn(3, 4), 1)),
        "cannot be called with the example",
    ),
    "lazy": (
        lambda: graph_init_torch.measure(nn.LazyLinear(2), (torch.randn(3, 4),)),
        "call the module once",
    ),
    "meta": (
        lambda: graph_init_torch.measure(nn.Linear(4, 2, device="meta"), (torch.randn(3, 4),)),
        "meta device",
    ),
    "example for a file": (
        lambda: graph_init.measure("model.onnx", args=(1,)),
        "leave them out for ONNX",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name: str) -> None:
    call, message = MISTAKES[name]
    with pytest.raises(UsageError, match=message):
        call()


def test_a_script_module_is_refused() -> None:
    module = torch.jit.trace(nn.Linear(4, 2), torch.randn(3, 4))
    with pytest.raises(UnsupportedModelError, match="ScriptModule"):
        graph_init_torch.measure(module, (torch.randn(3, 4),))


# ---- exporters that rename, pack, transpose and merge


def exported(module: nn.Module, args: Any, how: str) -> onnx.ModelProto:
    if how == "optimised":
        program = torch.onnx.export(module, args, dynamo=True, optimize=True, verbose=False)
        assert program is not None
        return program.model_proto
    file = io.BytesIO()
    torch.onnx.export(module, args, file, dynamo=False, do_constant_folding=True)
    return onnx.load_from_string(file.getvalue())


@pytest.mark.parametrize("how", ["optimised", "scripted"])
@pytest.mark.parametrize("name", ["LSTM", "GRU, both directions", "tied embedding"])
def test_tensors_are_found_in_what_other_exports_make_of_them(name: str, how: str) -> None:
    case = CASES[name]
    module, args = case.build().eval(), case.args()
    proto = exported(module, args, how)
    tensors, _ = frontend._tensors(module)
    kept = {i.name for i in proto.graph.initializer}
    assert not {t.name for t in tensors} <= kept  # there is something to find
    before = run_onnx(proto, args, {})
    bound = bind(proto, tensors)
    assert set(bound.owners) == {t.name for t in tensors}
    after = run_onnx(onnx_ir.to_proto(bound.model), args, {})
    for a, b in zip(after, before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_equal_layers_merged_by_the_exporter_have_one_factor() -> None:
    """TransformerEncoder copies its first layer, and the optimised export makes one of the two."""
    module, args = CASES["TransformerEncoder"].build().eval(), CASES["TransformerEncoder"].args()
    tensors, _ = frontend._tensors(module)
    bound = bind(exported(module, args, "optimised"), tensors)
    pairs = [{t.name for t in owners} for owners in bound.owners.values()]
    for kind in ("linear1", "linear2", "self_attn.out_proj"):
        assert {f"encoder.layers.{n}.{kind}.weight" for n in (0, 1)} in pairs


def test_folded_weights_are_refused() -> None:
    module, args = CASES["ResNet with batch norm"].build().eval(), (torch.randn(4, 3, 10, 10),)
    tensors, _ = frontend._tensors(module)
    with pytest.raises(UnsupportedModelError, match=r"changed the values of '0\.weight'"):
        bind(exported(module, args, "optimised"), tensors)
