"""What the command line teaches: help with examples, suggestions, completion."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import version

import click
import pytest
from click.testing import CliRunner
from packaging.version import Version

from graph_init import options
from graph_init.cli import cli
from graph_init.init import schemes
from graph_init.tuning import registry


def test_what_is_listed_without_the_library_is_what_the_library_has() -> None:
    assert ("keep", *schemes.SCHEMES) == options.SCHEMES
    assert set(options.TUNERS.values()) == set(registry.PREPARE)


@pytest.mark.parametrize("name", list(cli.commands))
def test_examples_are_commands_that_can_be_given(name: str) -> None:
    command = cli.commands[name]
    assert command.epilog is not None
    examples = command.epilog.splitlines()[2:]
    assert examples
    for example in examples:
        own = example.replace('eval "$(', "").replace(')"', "")
        words = shlex.split(own, comments=True)
        if ">" in words:
            words = words[: words.index(">")]
        assert words[:2] == ["graph-init", name]
        command.make_context(name, words[2:])  # raises UsageError if the example is wrong


@pytest.mark.parametrize("name", list(cli.commands))
def test_summaries_are_shown_whole(name: str) -> None:
    lines = CliRunner().invoke(cli, ["--help"]).output.splitlines()
    line = next(x for x in lines if x.split() and x.split()[0] == name)
    assert line.endswith(".") and not line.endswith("...")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["initialise", "m.onnx"], "initialize"),
        (["initialize", "m.onnx", "-o", "o.onnx", "--schme", "he"], "--scheme"),
        (["initialize", "m.onnx", "-o", "o.onnx", "--loss", "cross-entrpy"], "cross-entropy"),
    ],
)
def test_misspelt_words_are_answered_with_the_right_ones(words: list[str], expected: str) -> None:
    if expected == "initialize" and Version(version("click")) < Version("8.4"):
        pytest.skip("click suggests commands from 8.4 on; run pip install 'click>=8.4'")
    found = CliRunner().invoke(cli, words)
    assert found.exit_code == 2 and expected in found.output


def completed(*words: str) -> list[str]:
    """What bash is told to offer for the last word."""
    line = ["graph-init", *words]
    done = subprocess.run(
        [sys.executable, "-m", "graph_init"],
        env={
            **os.environ,
            "COMP_WORDS": shlex.join(line),
            "COMP_CWORD": str(len(line) - 1),
            "_GRAPH_INIT_COMPLETE": "bash_complete",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_the_shell_completes_commands_options_values_and_files() -> None:
    assert completed("ini") == ["plain,initialize"]
    assert completed("initialize", "m", "--sch") == ["plain,--scheme"]
    assert completed("initialize", "m", "--scheme", "orth") == ["plain,orthogonal"]
    assert completed("initialize", "m", "--tuner", "r") == ["plain,restore"]
    assert completed("measure", "mod") == ["file,mod"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_scripts_are_of_their_shells(shell: str) -> None:
    script = CliRunner().invoke(cli, ["completion", shell])
    assert script.exit_code == 0 and f"_GRAPH_INIT_COMPLETE={shell}_complete" in script.output
    if path := shutil.which(shell):
        subprocess.run([path, "-n"], input=script.output, text=True, check=True)


def test_every_option_says_what_it_does() -> None:
    silent = [
        f"{name} {parameter.opts[-1]}"
        for name, command in cli.commands.items()
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.help
    ]
    assert not silent
