"""Figures on docs/zoo.md: each command writes its own paragraph, between two marks."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "zoo.md"


def machine() -> str:
    return f"{os.cpu_count()} cores, Python {platform.python_version()}"


def write(name: str, text: str) -> None:
    """Put ``text`` in place of what stands between the marks of ``name``."""
    page = PAGE.read_text("utf-8")
    marks = rf"(<!-- figures: {name} -->\n).*?(<!-- end -->)"
    new, count = re.subn(marks, lambda m: f"{m[1]}\n{text.strip()}\n\n{m[2]}", page, flags=re.S)
    if count != 1:
        raise SystemExit(f"{PAGE} has no marks for '{name}'")
    PAGE.write_text(new, "utf-8")
