"""One run over the nine light models and exported transformers: two workers against one.

    python tools/zoo/speed.py --write

Models have one thread each in both cases, so that the number of workers is all that differs.
Most of its time is for the light models at their full size; nothing else should run meanwhile.
 ``--light`` and ``--transformers`` choose fewer.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import warnings
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from graph_init import zoo
from graph_init.zoo import manifest, summary
from tests.architecture_report import _export
from tests.architectures import ARCHITECTURES
from tools.light_zoo_table import models
from tools.zoo import page


def export(folder: Path, count: int) -> list[str]:
    """The first ``count`` architectures that PyTorch exports, as paths in ``folder``."""
    found: list[str] = []
    logging.disable(logging.WARNING)
    for architecture in ARCHITECTURES:
        if len(found) == count:
            break
        path = folder / architecture.kind / f"{architecture.name}.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model, inputs = architecture.build()
                _export(model, inputs, path)
        except Exception:  # PyTorch's exporter raises what it likes
            continue
        found.append(str(path.relative_to(folder)))
    logging.disable(logging.NOTSET)
    return found


def row(found: zoo.Row) -> str:
    if found.before is None or found.after is None or found.error is not None:
        said = (found.error or {}).get("message", found.status)
        return f"| {found.name} | {said} | | | {found.seconds or 0:.1f} | |"
    deviations = (f"{m['gradient_deviation']:.3g}" for m in (found.before, found.after))
    return (
        f"| {found.name} | {found.elements:,} | {' | '.join(deviations)} | {found.seconds:.1f} | "
        f"{(found.peak_memory or 0) / 1e6:,.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transformers", type=int, default=42, help="how many are exported")
    parser.add_argument("--light", nargs="*", help="names of light models [all nine]")
    parser.add_argument("--updates", type=int, default=1, help="of a trial")
    parser.add_argument("--time-limit", default="1h")
    parser.add_argument("--write", action="store_true", help="into docs/zoo.md")
    given = parser.parse_args()
    light = [p for n, p in models().items() if given.light is None or n in given.light]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        exported = export(folder, given.transformers)
        print(f"{len(exported)} exported", flush=True)
        told = {
            "format": manifest.FORMAT,
            "version": manifest.VERSION,
            "defaults": {"updates": given.updates, "time-limit": given.time_limit},
            "models": [
                *exported,
                *(
                    {
                        "source": str(p),
                        "name": f"light/{p.stem.removeprefix('light_')}",
                        "options": {"scheme": "he"},
                    }
                    for p in light
                ),
            ],
        }
        path = folder / "zoo.json"
        path.write_text(json.dumps(told))
        runs = {}
        for workers in (2, 1):
            output = folder / f"with{workers}"
            runs[workers] = zoo.run([str(path)], str(output), workers=workers, threads=1)
            print(workers, runs[workers].summary, flush=True)
        two, one = runs[2], runs[1]
        seconds = {workers: found.summary["seconds"] for workers, found in runs.items()}
        refused = "".join(
            f"\n- {', '.join(g.names)}: {g.kind}: {g.message}" for g in summary.failures(two.rows)
        )
        text = f"""### Two workers

`python tools/zoo/speed.py --write` ({page.machine()}): {len(light)} light models of onnx
(`--scheme he`) and {len(exported)} architectures of transformers in one run, `--updates
{given.updates}`, one thread a model. {two.summary["done"]} are done.
Two workers take {seconds[2]:,.0f} s, one takes {seconds[1]:,.0f} s:
{seconds[1] / seconds[2]:.2f} times as long.
{refused}

| model | elements | GD before | GD after | seconds | peak MB |
|---|---:|---:|---:|---:|---:|
{chr(10).join(map(row, two.rows))}
"""
        assert {r.name for r in one.rows if r.status == "done"} == {
            r.name for r in two.rows if r.status == "done"
        }
    print(text)
    if given.write:
        page.write("speed", text)


if __name__ == "__main__":
    main()
