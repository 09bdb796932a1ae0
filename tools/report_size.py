"""How large a zoo's report is, and how fast a browser shows it.

    python tools/report_size.py [--models 1000 10000] [--model light_squeezenet.onnx]

One model is initialised; the others have its names and shapes, and numbers of their own, since
numbers are what hardly compresses. Times in the browser (if there is one) are from the start of
loading until the overview is drawn and can be used, of sorting by a column, and until a model's
page has its charts.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import graph_init
from graph_init import report

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
DRAWN = (
    "const all = document.querySelectorAll('#route figure').length;"
    "return all > 0 && document.querySelectorAll('#route figure svg').length === all"
)


def varied(content: Any, draw: random.Random) -> Any:
    """The same with every number but the whole ones changed."""
    if isinstance(content, float):
        return content * draw.uniform(0.5, 1.5)
    if isinstance(content, dict):
        return {k: varied(v, draw) for k, v in content.items()}
    if isinstance(content, list):
        return [varied(v, draw) for v in content]
    return content


def write(content: dict[str, Any], count: int, path: Path) -> float:
    """Seconds that it took to write a page of ``count`` models."""
    draw = random.Random(0)
    rows: list[dict[str, Any]] = []
    contents: dict[str, Callable[[], dict[str, Any]]] = {}
    for k in range(count):
        name = f"family{k % 20}/model-{k}.onnx"
        contents[name] = lambda k=k: varied(content, random.Random(k))
        rows.append(
            {
                "name": name,
                "status": "done",
                "elements": 25_000_000,
                "collapsed": False,
                "seconds": draw.lognormvariate(1, 1),
                "peak_memory": draw.randrange(2**28, 2**31),
                "gradient_deviation_before": draw.lognormvariate(2, 2),
                "gradient_deviation_after": draw.lognormvariate(1, 2),
                "vanished_before": draw.random(),
                "vanished_after": draw.random(),
            }
        )
    start = time.perf_counter()
    report.write_zoo(rows, contents, path)
    return time.perf_counter() - start


def looked_at(path: Path) -> str:
    from tests.browser import Browser

    with tempfile.TemporaryDirectory() as folder:
        browser = Browser(Path(folder), seconds=300)
        try:
            times = []
            start = time.perf_counter()
            browser.open(path)
            times.append(time.perf_counter() - start)
            start = time.perf_counter()
            browser.element("#models thead [data-key=seconds] button").click()
            browser.run("return document.body.offsetHeight")
            times.append(time.perf_counter() - start)
            start = time.perf_counter()
            browser.element("#models tbody a").click()
            browser.until(lambda: browser.run(DRAWN))
            times.append(time.perf_counter() - start)
        finally:
            browser.driver.quit()
    return "shown {:.1f} s, sorted {:.2f} s, a model's page {:.1f} s".format(*times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--model", default="light_squeezenet.onnx")
    arguments = parser.parse_args()
    result = graph_init.initialize(LIGHT / arguments.model, scheme="he", updates=1)
    content = result.report_content()
    tensors = len(result.after.parameters)
    for count in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "report.html"
            seconds = write(content, count, path)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(
                f"{count} models of {tensors} tensors: {path.stat().st_size / 1e6:.1f} MB, written "
                f"in {seconds:.0f} s, peak memory {peak:.0f} MiB; {looked_at(path)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
