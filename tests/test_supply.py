"""What tools/supply.py makes of what pip-audit tells."""

from __future__ import annotations

import json

from tools import supply


def test_advisories_are_counted() -> None:
    told = {
        "dependencies": [
            {"name": "a", "version": "1", "vulns": [{"id": "CVE-1"}, {"id": "CVE-2"}]},
            {"name": "b", "version": "2", "vulns": []},
            {"name": "c", "skip_reason": "not found"},
        ]
    }
    assert supply.advisories(json.dumps(told)) == (2, ["a 1: CVE-1", "a 1: CVE-2"])


def test_a_registry_without_advisories_is_no_all_clear() -> None:
    told = {"dependencies": [{"name": "c", "skip_reason": "not found"}]}
    assert supply.advisories(json.dumps(told)) == (0, [])
    assert supply.advisories("") == (0, [])
