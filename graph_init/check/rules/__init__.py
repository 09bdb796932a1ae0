"""The rules: what is looked for, a table with an entry each.

Identifiers of three digits, GI1.. for the tensor itself, GI2.. for the forward signal, GI3.. for
the gradient. They are never given to another rule.
"""

from __future__ import annotations

from collections.abc import Mapping

from graph_init.check.rules import contents, flow, scale, slope
from graph_init.check.rules.rule import Rule

__all__ = ["RULES", "Rule"]

RULES: Mapping[str, Rule] = {
    rule.id: rule for module in (contents, scale, flow, slope) for rule in module.RULES
}
