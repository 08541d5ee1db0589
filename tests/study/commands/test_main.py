"""The command line as a whole: what it imports, what it says of typos, odd terminals and errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import click
import pytest
from report_stores import finished_store

from sparsing.study.commands.main import COMMANDS, cli

HEAVY = ("torch", "ray", "scipy", "polars", "pyarrow", "pydantic", "numpy", "rich", "deepspeed")
SPARSING = [sys.executable, "-m", "sparsing"]
LOADED = f"""
import atexit, json, sys
heavy = {(*HEAVY, "matplotlib", "pandas")!r}
atexit.register(lambda: print(json.dumps([m for m in heavy if m in sys.modules]), file=sys.stderr))
sys.argv = ["sparsing", *sys.argv[1:]]
from sparsing.study.commands.main import main
main()
"""


def command_names() -> list[list[str]]:
    """Every command, those in groups too."""
    context = click.Context(cli)
    names = [[]]
    for name in COMMANDS:
        command = cli.get_command(context, name)
        names.append([name])
        if isinstance(command, click.Group):
            names += [[name, inner] for inner in command.list_commands(context)]
    return names


def loaded(*arguments: str) -> list[str]:
    """Which of the large libraries a command has loaded when it ends."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stderr.splitlines()[-1])


def test_help_of_everything_loads_no_large_library():
    """One process for all: what one command loads, the next would have to pay for alone."""
    code = (
        "import sys\nfrom click.testing import CliRunner\n"
        "from sparsing.study.commands.main import cli\n"
        f"for words in {command_names()!r}:\n"
        "    result = CliRunner().invoke(cli, [*words, '--help'])\n"
        "    assert result.exit_code == 0, result.output\n"
        f"    print(words, [m for m in {HEAVY!r} if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if not line.endswith("[]")] == []


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    finished_store(folder)
    return folder


BUDGETS = {
    "plan": {"pydantic", "numpy", "pyarrow"},
    "status": {"pydantic", "numpy", "polars", "pyarrow"},
    "laws": {"pydantic", "numpy", "polars", "pyarrow"},
    "query": {"pydantic", "numpy", "polars", "pyarrow"},
    "logs": {"pydantic", "numpy", "polars", "pyarrow"},
    "schema": {"pydantic", "numpy"},
    "completion": set(),
}
"""What a command may load of the large libraries."""


@pytest.mark.parametrize("command", BUDGETS)
def test_commands_load_only_what_they_need(command, root):
    study = os.listdir(root)[0]
    words = {
        "plan": ["quickstart"],
        "query": [study, "SELECT run FROM runs"],
        "schema": [],
        "completion": ["bash"],
    }.get(command, [study])
    store = [] if command in ("plan", "schema", "completion") else ["--store", str(root)]
    assert set(loaded(command, *words, *store)) <= BUDGETS[command]


@pytest.mark.parametrize(
    ("typo", "nearest"),
    [(["lwas"], "laws"), (["stauts"], "status"), (["store", "chekc"], "check")],
)
def test_a_typo_is_answered_with_the_nearest_command(typo, nearest):
    done = subprocess.run([*SPARSING, *typo], capture_output=True, text=True)
    assert done.returncode == 2
    assert f"'{nearest}'" in done.stderr


def test_no_line_of_help_is_cut():
    done = subprocess.run([*SPARSING, "--help"], capture_output=True, text=True)
    assert "..." not in done.stdout.replace("[ARGS]...", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_of_a_shell_knows_the_commands(shell):
    script = subprocess.run([*SPARSING, "completion", shell], capture_output=True, text=True)
    assert "_SPARSING_COMPLETE" in script.stdout
    asked = {"_SPARSING_COMPLETE": f"{shell}_complete", "COMP_WORDS": "sparsing la"}
    asked |= {"COMP_CWORD": "la" if shell == "fish" else "1"}
    done = subprocess.run(SPARSING, capture_output=True, text=True, env=os.environ | asked)
    assert "laws" in done.stdout


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_terminal_of_another_encoding_gets_its_tables(encoding, root):
    for words in (["plan", "demo"], ["status", os.listdir(root)[0], "--store", str(root)]):
        environment = os.environ | {"PYTHONIOENCODING": encoding}
        done = subprocess.run([*SPARSING, *words], capture_output=True, env=environment)
        assert done.returncode == 0
        assert b"Traceback" not in done.stderr


def test_a_closed_output_is_no_traceback():
    for closed in ("| true", ">&-", "> /dev/full"):
        script = f"{sys.executable} -m sparsing plan demo {closed}"
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr


def test_an_error_of_a_library_is_a_sentence_and_a_traceback_only_where_asked(tmp_path):
    code = (
        "import sys\nfrom sparsing.study.commands import main\n"
        "import sparsing.study.definition.load as load\n"
        "def broken(selector): raise ZeroDivisionError('by zero\\nand more')\n"
        "load.load_study = broken\nsys.argv = ['sparsing', 'plan', 'x', *sys.argv[1:]]\n"
        "main.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: ZeroDivisionError: by zero; --debug shows where it comes from"
    ]
    debugged = subprocess.run([sys.executable, "-c", code, "--debug"], capture_output=True)
    assert b"Traceback" in debugged.stderr
