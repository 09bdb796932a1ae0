"""Findings as SARIF 2.1.0, which code hosts show beside the lines of a change.

OASIS, "Static Analysis Results Interchange Format (SARIF) Version 2.1.0", 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from graph_init.check.findings import Finding, page
from graph_init.check.rules import RULES
from graph_init.version import __version__

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def sarif(findings: Sequence[Finding], model: str) -> dict[str, Any]:
    """The log of one run on the file ``model``: a result for each finding."""
    places = {rule: k for k, rule in enumerate(RULES)}
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "graph-init",
                        "version": __version__,
                        "rules": [
                            {
                                "id": rule.id,
                                "shortDescription": {"text": rule.title},
                                "fullDescription": {"text": rule.why},
                                "help": {"text": rule.remedy},
                                "helpUri": page(rule.id),
                                "defaultConfiguration": {"level": rule.severity},
                            }
                            for rule in RULES.values()
                        ],
                    }
                },
                "results": [
                    {
                        "ruleId": f.id,
                        "ruleIndex": places[f.id],
                        "level": f.severity,
                        "message": {"text": f"{f.tensor}: {f.message}" if f.tensor else f.message},
                        "locations": [
                            {
                                "physicalLocation": {"artifactLocation": {"uri": quote(model)}},
                                **(
                                    {
                                        "logicalLocations": [
                                            {"fullyQualifiedName": f.tensor, "kind": "member"}
                                        ]
                                    }
                                    if f.tensor
                                    else {}
                                ),
                            }
                        ],
                        "properties": {k: f.to_json()[k] for k in ("evidence", "factor")},
                    }
                    for f in findings
                ],
            }
        ],
    }
