from __future__ import annotations

import re

import pytest
from real_prometheus import DEPLOY

from sparsing.study.commands.main import COMMANDS
from sparsing.study.definition.load import load_study
from sparsing.study.plan.runs import plan

TEXT = (DEPLOY / "README.md").read_text()
RUNBOOKS = (DEPLOY / "runbooks.md").read_text()


def test_the_sizes_are_those_of_the_plan():
    total = plan(load_study("sparsing_law")).total
    (row,) = (line for line in TEXT.splitlines() if line.startswith("| **all ten**"))
    tokens, hours, checkpoints, _ = re.findall(r"\*\*([\d.,]+)[ TGB]*\*\*", row)
    assert f"{total['tokens'] / 1e12:.2f}" == tokens
    assert f"{total['gpu_hours']:,.0f}" == hours
    assert f"{total['checkpoint_bytes'] / 1e12:.2f}" == checkpoints


@pytest.mark.parametrize("text", [TEXT, RUNBOOKS], ids=["README", "runbooks"])
def test_files_exist(text):
    for link in re.findall(r"\]\(([\w./-]+)\)", text):
        assert (DEPLOY / link).exists(), link


@pytest.mark.parametrize("text", [TEXT, RUNBOOKS], ids=["README", "runbooks"])
def test_commands_exist(text):
    named = set(re.findall(r"`sparsing ([a-z]+)", text))
    assert named
    assert named <= set(COMMANDS)
