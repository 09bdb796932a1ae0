"""The engine's import."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("statement", ["import onnxruntime.training", "pass"])
def test_the_engine_comes_without_torch_and_leaves_its_training_package_importable(
    statement: str,
) -> None:
    if statement != "pass":
        pytest.importorskip("torch", reason="its training package imports PyTorch")
    code = (
        "import sys\n"
        "from graph_init.engine.runtime import installed\n"
        "installed()\n"
        "assert 'torch' not in sys.modules\n"
        "assert 'onnxruntime.training' not in sys.modules\n"
        f"{statement}\n"
        "installed()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
