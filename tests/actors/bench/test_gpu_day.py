from __future__ import annotations

import json

import pytest
import torch

from sparsing.actors.bench import gpu_day
from sparsing.study.errors import RunsFailedError


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_dry_run_walks_through_every_part(tmp_path) -> None:
    out = tmp_path / "results.json"
    gpu_day.run_parts(out, dry=True)
    document = json.loads(out.read_text())
    assert set(document["parts"]) == set(gpu_day.PARTS)
    assert document["torch"] == torch.__version__
    steps = document["parts"]["train"]["result"]
    assert {step["compiled"] for step in steps} == {False, True}
    eager, compiled = (step["first_loss"] for step in steps)
    assert compiled == pytest.approx(eager, rel=1e-5)
    assert document["parts"]["calibration"]["result"]["matmul_flops"] > 0


def test_a_part_that_fails_costs_only_itself(tmp_path, monkeypatch) -> None:
    def apart(name: str, dry: bool) -> dict:
        return {"error": "broken"} if name == "train" else {"result": name}

    monkeypatch.setattr(gpu_day, "_apart", apart)
    with pytest.raises(RunsFailedError):
        gpu_day.run_parts(tmp_path / "results.json", dry=True)
    document = json.loads((tmp_path / "results.json").read_text())
    assert set(document["parts"]) == set(gpu_day.PARTS)
    assert [n for n, found in document["parts"].items() if "error" in found] == ["train"]
