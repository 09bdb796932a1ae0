"""Imported at the start of every Python that has this folder on its path: the jitter, there too."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent.parent))
from tests import jitter

jitter.install()
