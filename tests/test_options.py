"""Options: each is declared once, and means the same in Python, in manifests and on the shell."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click
import pytest

import graph_init
from graph_init import options
from graph_init.cli import cli
from graph_init.errors import UsageError
from graph_init.options import keywords
from graph_init.options.fields import of, require_known
from graph_init.zoo import manifest
from tests.small_models import plain_cnn

#: The groups of ``initialize``, and the settings of the tuners.
GROUPS = (
    options.ParameterOptions,
    options.ProblemOptions,
    options.ComputationOptions,
    options.InitialWeights,
    options.WritingOptions,
    *options.TUNERS.values(),
)


def fields(*kinds: type[Any]) -> set[str]:
    return {field for kind in kinds for field in of(kind)}


def test_the_keywords_are_the_fields() -> None:
    example = {"args", "kwargs", "export"}
    shared = fields(*GROUPS[:3])
    for given, expected in (
        (keywords.InspectKeywords, example | fields(options.ParameterOptions) | {"dims", "input"}),
        (keywords.MeasureKeywords, example | shared | fields(options.GradientOptions)),
        (keywords.InitializeKeywords, example | fields(*GROUPS)),
    ):
        assert set(given.__annotations__) == expected


def test_every_option_is_on_the_command_line_and_in_manifests() -> None:
    flags = {option.flag for kind in GROUPS for option, _ in of(kind).values()}
    given = {
        p.opts[-1].removeprefix("--")
        for p in cli.commands["initialize"].params
        if isinstance(p, click.Option)
    }
    assert flags <= given
    assert flags | {"tuner", "time-limit", "ignore"} == set(manifest.OPTIONS)


def test_every_option_has_a_sentence_of_help() -> None:
    for kind in (*GROUPS, options.LimitOptions, options.GradientOptions):
        for option, _ in of(kind).values():
            assert option.help.endswith("."), option


def test_values_have_their_own_type_from_the_start() -> None:
    made = options.Options.of(
        {
            "memory_limit": "1.5GiB",
            "output_name": "y",
            "freeze": ["a", "b"],
            "batch_size": None,
            "steps": 3,
        }
    )
    assert (made.memory_limit, made.output_name, made.freeze) == (3 << 29, ("y",), ("a", "b"))
    assert dataclasses.replace(made, seed=1) == options.Options(
        memory_limit=3 << 29, output_name="y", freeze=("a", "b"), seed=1
    )
    assert "memory_limit" not in made.to_json() and made.to_json()["freeze"] == ["a", "b"]


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"batch_size": 1.5}, "--batch-size: 1.5 is not a whole number"),
        ({"batch_size": True}, "--batch-size: True is not a whole number"),
        ({"difference_step": "x"}, "--difference-step: 'x' is not a number"),
        ({"difference_step": float("inf")}, "--difference-step must be finite, not inf"),
        ({"difference_step": float("nan")}, "--difference-step must be positive, not nan"),
        ({"loss": "mea"}, "--loss is one of .*did you mean 'mse'"),
        ({"freeze": ["("]}, r"--freeze '\(' is not a regular expression"),
        ({"dims": {"n": 0}}, "--dim n must be at least 1"),
        ({"trainable": 3}, "--trainable: 3 is not a text or a list of texts"),
        ({"scale_gradient": 1}, "--scale-gradient: 1 is neither true nor false"),
        ({"memory_limit": "lots"}, "--memory-limit 'lots' is not a size"),
    ],
)
def test_a_wrong_value_is_said_by_its_option(keywords: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        options.Options(**keywords)


def test_a_keyword_that_there_is_not_has_a_suggestion() -> None:
    with pytest.raises(UsageError, match="'batchsize'; did you mean 'batch_size'"):
        graph_init.measure(plain_cnn(2), batchsize=3)
    with pytest.raises(UsageError, match="'optimizer'; did you mean 'tuner'"):
        graph_init.initialize(plain_cnn(2), optimizer="sign")
    with pytest.raises(UsageError, match="there is no argument 'q'; known: a, b"):
        require_known(["a", "q"], ["a", "b"])


def test_a_result_says_all_options_that_it_depends_on(tmp_path: Path) -> None:
    result = graph_init.initialize(plain_cnn(2), batch_size=2, tuner=graph_init.MetaInit(steps=1))
    told = fields(*GROUPS[:4]) - {"memory_limit"} | {"tuner", *fields(options.MetaInit)}
    assert set(result.settings) == told
    assert result.provenance["graph_init.steps"] == "1"
