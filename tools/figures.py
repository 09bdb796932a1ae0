"""The figures and tables of docs/mathematics.md, from small networks.

    python tools/figures.py            # writes the tables into the page, and docs/mathematics/
    python tools/figures.py --check    # computes them again, and compares; a test does that

Points are in docs/mathematics/figures.csv, from which the pictures are drawn. Numbers are compared
to a tenth, since the last digits depend on the processor. Half a minute on one core.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import graph_init
from graph_init.analysis import analyze
from graph_init.autodiff import primal
from graph_init.deviation import taylor
from graph_init.frontends.resolve import resolve
from graph_init.options import Options
from graph_init.problem import forward_graph
from graph_init.problem.forward_graph import Problem
from graph_init.problem.workload import build

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "mathematics.md"
FOLDER = ROOT / "docs" / "mathematics"
POINTS = FOLDER / "figures.csv"

WIDTH, CLASSES, ROWS = 32, 10, 64
FACTORS = np.geomspace(0.25, 1.6, 16)
SHARES = 10.0 ** np.arange(-1, -7.5, -0.5)

#: Weights of the network of ``kinks`` with which several units switch on the way.
SEED_OF_KINKS = 15

#: A point of a figure: its picture, its curve, and where it lies.
Point = tuple[str, str, float, float]


def network(depth: int, activation: str = "Relu", factor: float = 1.0) -> onnx.ModelProto:
    """Layers of He weights times ``factor``, and a softmax."""
    rng = np.random.default_rng(0)
    nodes, weights, at = [], [], "x"
    for k in range(depth):
        width, gain = (CLASSES, 1.0) if k == depth - 1 else (WIDTH, 2.0)
        drawn = rng.standard_normal((WIDTH, width)) * np.sqrt(gain / WIDTH) * factor
        weights.append(numpy_helper.from_array(drawn.astype(np.float32), f"w{k}"))
        nodes.append(helper.make_node("MatMul", [at, f"w{k}"], [f"h{k}"], f"layer{k}"))
        at = f"h{k}"
        if k < depth - 1:
            nodes.append(helper.make_node(activation, [at], [f"a{k}"]))
            at = f"a{k}"
    nodes.append(helper.make_node("Softmax", [at], ["y"]))
    graph = helper.make_graph(
        nodes,
        "plain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", CLASSES])],
        initializer=weights,
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8)


# -- figures: points


def collapse() -> Iterator[Point]:
    """What is measured of a network of 12 layers as all weights grow."""
    for factor in FACTORS:
        found = graph_init.measure(network(12, factor=float(factor)), batch_size=ROWS)
        yield "collapse", "gradient deviation", float(factor), found.gradient_deviation
        yield "collapse", "gradient norm", float(factor), found.gradient_norm
        yield "collapse", "vanished fraction", float(factor), found.vanished_fraction


def steps() -> Iterator[Point]:
    """Finite differences as the step shrinks, and Taylor."""
    for activation in ("Tanh", "Relu"):
        model = network(8, activation)
        exact = graph_init.measure(model, batch_size=ROWS)
        length = np.sqrt(sum(p.norm**2 for p in exact.parameters))
        yield "steps", f"{activation}, Taylor", 0.0, exact.gradient_deviation
        for share in SHARES:
            found = graph_init.measure(
                model,
                batch_size=ROWS,
                method="finite-difference",
                difference_step=float(share * length / exact.gradient_norm),
            )
            yield "steps", f"{activation}, differences", float(share), found.gradient_deviation


def kinks() -> Iterator[Point]:
    """One element of the gradient along the way that one gradient step takes."""
    rng = np.random.default_rng(SEED_OF_KINKS)
    x, target = rng.standard_normal((8, 3)), rng.standard_normal((8, 1))
    first, second = rng.standard_normal((3, 6)), rng.standard_normal((6, 1))
    for name in ("tanh", "ReLU"):

        def gradient(v: np.ndarray, w: np.ndarray, name: str = name) -> tuple[np.ndarray, ...]:
            before = x @ v
            after = np.tanh(before) if name == "tanh" else np.maximum(before, 0)
            slope = 1 - after**2 if name == "tanh" else (before > 0).astype(float)
            error = 2 * (after @ w - target) / len(x)
            return x.T @ (error @ w.T * slope), after.T @ error

        along = gradient(first, second)
        for t in np.linspace(0, 0.1, 201):
            moved = gradient(first - t * along[0], second - t * along[1])
            yield "kinks", name, float(t), float(moved[0][0, 0])


# -- tables


def derivative() -> str:
    """∂GD/∂log s by the formula, and by central differences of GD itself over two steps."""
    model = network(5, "Tanh")
    found = graph_init.measure(model, batch_size=ROWS, scale_gradient=True)
    lines = [
        "| tensor | by the formula | from GD at e^±0.0001 | from GD at e^±0.01 |",
        "|---|---:|---:|---:|",
    ]
    for row in found.parameters:
        cells = [row.name, f"{row.log_scale_gradient:+.1f}"]
        for step in (0.0001, 0.01):
            up, down = (_scaled(model, row.name, np.exp(s * step)) for s in (1, -1))
            cells.append(f"{(up - down) / (2 * step):+.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _scaled(model: onnx.ModelProto, name: str, factor: float) -> float:
    """Gradient deviation with one tensor times ``factor``."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    (tensor,) = (t for t in other.graph.initializer if t.name == name)
    tensor.CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), name)
    )
    return graph_init.measure(other, batch_size=ROWS).gradient_deviation


def _problem(depth: int) -> Problem:
    loaded = resolve(network(depth), None, None, None).loaded
    options = Options(batch_size=ROWS, loss="cross-entropy", scale_gradient=True)
    return build(loaded, analyze(loaded.ir), forward_graph.initial_values(loaded), options).problem


def _products(depth: int) -> np.ndarray:
    """Matrix products of the gradient, with deviation, and with its derivative."""
    problem = _problem(depth)
    names = [p.name for p in problem.parameters]
    loss = problem.objective.loss.name
    p = primal.build(problem.forward, loss, names)
    gradient = sum("MatMul" in n.op for n in p.builder.needed([*p.gradients.values()]))
    found = [gradient]
    for scaled in ([], names):
        nodes = taylor.build(
            problem.forward, loss, names, scaled, scale_gradient=bool(scaled)
        ).program.model.graph.node
        # Sums of squares are products too, whose result is added up; they cost next to nothing.
        added = {i for n in nodes if n.op_type == "ReduceSum" for i in n.input}
        found.append(sum("MatMul" in n.op_type and n.output[0] not in added for n in nodes))
    return np.array(found)


def products() -> str:
    """Matrix products that a layer adds to each graph."""
    gradient, value, slopes = _products(9) - _products(8)
    return (
        "| graph | products a layer |\n|---|---:|\n"
        f"| loss and gradient | {gradient} |\n"
        f"| with gradient deviation | {value} |\n"
        f"| with its derivative in every scale | {slopes} |"
    )


def slices() -> str:
    """A batch at once, in slices, and what a mean over slices would be."""
    model, rng = network(8), np.random.default_rng(0)
    x = rng.standard_normal((ROWS, WIDTH)).astype(np.float32)
    target = rng.integers(0, CLASSES, ROWS)

    def deviation(rows: slice, micro_batch: int | None = None) -> float:
        data = {"x": x[rows], "target": target[rows]}
        return graph_init.measure(model, data=data, micro_batch=micro_batch).gradient_deviation

    whole = slice(0, ROWS)
    parts = [deviation(slice(k, k + 8)) for k in range(0, ROWS, 8)]
    return (
        "| 64 rows | gradient deviation |\n|---|---:|\n"
        f"| at once | {deviation(whole):.3f} |\n"
        f"| `--micro-batch 8` | {deviation(whole, 8):.3f} |\n"
        f"| mean of the deviations of eight batches of 8 | {np.mean(parts):.3f} |"
    )


TABLES: dict[str, Callable[[], str]] = {
    "derivative": derivative,
    "products": products,
    "slices": slices,
}


# -- pictures


def draw(points: Sequence[Point], folder: Path) -> None:
    """The pictures as SVG, in colours for a light and a dark page."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    grey = "#888888"
    pyplot.rcParams.update(
        {
            "axes.edgecolor": grey,
            "axes.labelcolor": grey,
            "text.color": grey,
            "xtick.color": grey,
            "ytick.color": grey,
            "svg.hashsalt": "graph-init",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
        }
    )
    colours = ("#5c6bc0", "#ef6c00", "#26a69a", "#ab47bc")

    def curve(figure: str, name: str) -> tuple[list[float], list[float]]:
        found = [(x, y) for f, n, x, y in points if (f, n) == (figure, name)]
        return [x for x, _ in found], [y for _, y in found]

    def save(name: str) -> None:
        pyplot.savefig(folder / f"{name}.svg", transparent=True, metadata={"Date": None})
        pyplot.close()

    figure, axes = pyplot.subplots(3, sharex=True, figsize=(6.4, 5.6), layout="constrained")
    for axis, name, colour in zip(
        axes, ("gradient deviation", "gradient norm", "vanished fraction"), colours, strict=False
    ):
        axis.plot(*curve("collapse", name), color=colour, marker=".")
        axis.set(ylabel=name, xscale="log", yscale="linear" if "fraction" in name else "log")
    axes[0].axhline(1, color=grey, linewidth=0.8, linestyle=":")
    axes[-1].set(xlabel="factor on all weights (1: He)")
    axes[-1].set_xticks([0.25, 0.5, 1, 1.5], ["0.25", "0.5", "1", "1.5"])
    axes[-1].minorticks_off()
    save("collapse")

    figure, axes = pyplot.subplots(1, 2, figsize=(7.2, 3.2), layout="constrained")
    for axis, name in zip(axes, ("Tanh", "Relu"), strict=True):
        axis.plot(*curve("steps", f"{name}, differences"), color=colours[0], marker=".")
        (_, (exact,)) = curve("steps", f"{name}, Taylor")
        axis.axhline(exact, color=colours[1], label="Taylor")
        axis.set(title=name, xscale="log", yscale="log", xlabel="step, as a share of ‖θ‖")
        axis.legend()
    axes[0].set(ylabel="gradient deviation")
    save("steps")

    figure, axis = pyplot.subplots(figsize=(6.4, 3.2), layout="constrained")
    for name, colour in zip(("tanh", "ReLU"), colours, strict=False):
        at, value = curve("kinks", name)
        axis.plot(at, value, color=colour, label=name)
        slope = (value[1] - value[0]) / (at[1] - at[0])
        end = at[-1]
        axis.plot([0, end], [value[0], value[0] + slope * end], color=colour, linestyle=":")
    axis.set(xlabel="h: how far along −g", ylabel="one element of the gradient")
    axis.legend()
    save("kinks")


# -- the page and the file


def _block(name: str) -> re.Pattern[str]:
    start, end = re.escape(f"<!-- tools/figures.py: {name} -->"), re.escape("<!-- end -->")
    return re.compile(rf"({start}\n\n)(.*?)(\n\n{end})", re.DOTALL)


def stored(name: str) -> str:
    """What the page has for this table."""
    found = _block(name).search(PAGE.read_text("utf-8"))
    if found is None:
        raise SystemExit(f"{PAGE} has no place for '{name}'")
    return found[2]


def _read() -> list[Point]:
    with POINTS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:]
    return [(figure, name, float(x), float(y)) for figure, name, x, y in rows]


def compute() -> list[Point]:
    return [*collapse(), *steps(), *kinks()]


def check() -> list[str]:
    """What no longer is as it was written: empty if nothing has changed."""
    sys.path.insert(0, str(ROOT))
    from tests.docs_pages import unlike

    wrong = [f"{n}: {d}" for n, make in TABLES.items() if (d := unlike(stored(n), make()))]
    for old, new in zip(_read(), compute(), strict=True):
        same = old[:2] == new[:2] and np.allclose(old[2:], new[2:], rtol=0.1, atol=1e-3)
        if not same and not _rounding(old):
            wrong.append(f"{old} is now {new}")
    drawn = {p.stem for p in FOLDER.glob("*.svg")}
    return wrong + [f"no picture of {n}" for n in {p[0] for p in _read()} - drawn]


def _rounding(point: Point) -> bool:
    """Whether float32 decides: the shortest steps, and kinks, which a last digit moves."""
    figure, name, share, _ = point
    return figure == "steps" and "differences" in name and ("Relu" in name or share < 1e-5)


def write() -> None:
    points = compute()
    with tempfile.TemporaryDirectory() as folder:
        draw(points, Path(folder))
        FOLDER.mkdir(exist_ok=True)
        for picture in Path(folder).iterdir():
            (FOLDER / picture.name).write_bytes(picture.read_bytes())
    with POINTS.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["figure", "curve", "x", "y"])
        writer.writerows([f, n, f"{x:.6g}", f"{y:.6g}"] for f, n, x, y in points)
    text = PAGE.read_text("utf-8")
    for name, make in TABLES.items():
        table = make()
        text = _block(name).sub(lambda m, table=table: m[1] + table + m[3], text)
    PAGE.write_text(text, "utf-8")
    print(f"wrote {POINTS.parent} and the tables of {PAGE}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare; change nothing")
    if parser.parse_args().check:
        wrong = check()
        print("\n".join(wrong) or "as written")
        raise SystemExit(bool(wrong))
    write()


if __name__ == "__main__":
    main()
