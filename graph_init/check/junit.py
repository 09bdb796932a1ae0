"""Findings as JUnit XML, which CI systems show as tests: one for each rule, failed or passed."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from graph_init.check.findings import SEVERITIES, Finding
from graph_init.check.rules import RULES
from graph_init.errors import escaped


def junit(findings: Sequence[Finding], model: str, fail_on: str) -> str:
    """A suite for the file ``model``; findings from ``fail_on`` on are failures."""
    limit = SEVERITIES.index(fail_on)
    failed = {f.id for f in findings if SEVERITIES.index(f.severity) <= limit}
    suite = ElementTree.Element(
        "testsuite",
        name=f"graph-init check {escaped(model)}",
        tests=str(len(RULES)),
        failures=str(len(failed)),
        errors="0",
    )
    for rule in RULES.values():
        case = ElementTree.SubElement(
            suite, "testcase", classname=escaped(model), name=f"{rule.id} {rule.title}"
        )
        own = [f for f in findings if f.id == rule.id]
        lines = "\n".join(escaped(f"{f.severity}: {f.tensor}: {f.message}") for f in own)
        if rule.id in failed:
            failure = ElementTree.SubElement(case, "failure", message=escaped(own[0].message))
            failure.text = lines
        elif own:
            ElementTree.SubElement(case, "system-out").text = lines
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
