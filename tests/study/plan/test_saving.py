"""A store without room for two saves is refused before anything is trained."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from sparsing.study.definition.load import load_study
from sparsing.study.errors import DefinitionError
from sparsing.study.plan.runs import plan_runs
from sparsing.study.plan.saving import check_room_for_saves, save_bytes

Usage = namedtuple("Usage", "total used free")


def test_room_for_two_saves_of_the_largest_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = load_study("sparsing_law")
    vocabulary = study.data.tokenizer.entries
    largest = max(save_bytes(run, vocabulary) for run in plan_runs(study))
    assert largest > 12 * 1.2e9 * 0.9
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 2 * largest))
    check_room_for_saves(study, tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 2 * largest - 1))
    with pytest.raises(DefinitionError, match="free"):
        check_room_for_saves(study, tmp_path)
