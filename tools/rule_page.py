"""Write docs/rules.md from the rules of `graph-init check`.

python tools/rule_page.py          write the page
python tools/rule_page.py --check  fail if the written one is stale
"""

from __future__ import annotations

import argparse
import inspect
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from graph_init.check import RULES
from tools import rule_examples

PAGE = ROOT / "docs" / "rules.md"
_HEAD = """\
# Rules of `check`

`graph-init check MODEL` asks these rules, from the tensor itself (GI1..) to the signal of a forward
pass (GI2..) and the gradient (GI3..). The severity is that of most of a rule's findings; what is
less sure, or does less harm, has a lower one. Files that look trained are judged only by the rules
that say so. `--ignore ID` leaves a rule out. [What they find, and how often they are
wrong](evidence/check.md) was measured.

Every rule has an example, in which it finds what it is for; a test runs them all. They are made
from these, and change the weights without recording gradients (`torch.no_grad()`):

```py
{parts}
```

This page is written by `python tools/rule_page.py`.
"""


def page() -> str:
    """The page's text."""
    parts = [_HEAD.replace("{parts}", _parts())]
    for rule in RULES.values():
        trained = " Trained files are judged by it, too." if rule.of_trained else ""
        parts.append(
            f"## {rule.id}: {rule.title} {{ #{rule.id.lower()} }}\n\n"
            f"Severity: {rule.severity}.{trained}\n\n{rule.why}\n\nWhat helps: {rule.remedy}\n\n"
            f"```py\n{rule_examples.EXAMPLES[rule.id]}\n```\n"
        )
    return "\n".join(parts)


def _parts() -> str:
    """The code of what examples are made from."""
    found = [inspect.getsource(part).rstrip() for part in rule_examples.PARTS]
    return "\n\n\n".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    if not parser.parse_args().check:
        PAGE.write_text(page(), encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != page():
        raise SystemExit("docs/rules.md is stale; run python tools/rule_page.py")


if __name__ == "__main__":
    main()
