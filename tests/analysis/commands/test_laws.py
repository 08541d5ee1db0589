from __future__ import annotations

import csv
import io
import json

import pytest
from click.testing import CliRunner
from curves import synthetic

from sparsing.analysis.commands.laws import laws, predict
from sparsing.analysis.refitting.refit import refit
from sparsing.study.definition.model import Study
from sparsing.study.errors import DefinitionError, NotFoundError
from sparsing.study.plan.runs import plan_runs
from sparsing.study.store.study_store import StudyStore


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A store with one study: a ReLU run and a SiLU run with the paper's curves, one without."""
    root = tmp_path_factory.mktemp("store")
    shape = {"d_h": 32, "layers": 2, "heads": 2}
    study = Study.model_validate(
        {
            "name": "paper",
            "axes": {"activation": ["relu", "silu", "gelu"], "scale": [shape]},
            "tokens": "300B",
            "data": {"domains": {"code": {"kind": "python-stdlib"}}, "sequence_tokens": 1000},
            "optimization": {"batch_tokens": "1M", "warmup_tokens": "1M"},
        }
    )
    store = StudyStore.create(root, study)
    relu, silu, _ = plan_runs(study)
    for run, name in ((relu, "0.8b_relu"), (silu, "0.2b_silu")):
        tokens, ratios = synthetic(name)
        with store.writer("sparsity", run=run.id, attempt=1) as writer:
            for seq, (at, ratio) in enumerate(zip(tokens, ratios, strict=True)):
                writer.append(seq, [measurement(int(at), float(ratio))])
    refit(store, code_version="test")
    return root


def measurement(tokens: int, ratio: float) -> dict:
    return {
        "step": tokens // 10**6,
        "tokens": tokens,
        "stage": "live",
        "metric": "cett_ppl",
        "p_percent": 1.0,
        "cett": 0.2,
        "activation_ratio": ratio,
        "dense_loss": 2.0,
        "sparse_loss": 2.01,
        "ppl_rise_percent": 1.0,
        "measured_tokens": 1000,
    }


def run_id(root, activation: str) -> str:
    runs = plan_runs(StudyStore.open(root, "paper").study)
    return next(run.id for run in runs if run.activation == activation)


def call(command, root, *arguments: object) -> str:
    result = CliRunner().invoke(command, [*map(str, arguments), "--store", str(root)])
    if result.exception:
        raise result.exception
    return result.stdout


def test_laws_in_text_json_and_csv(root) -> None:
    text = call(laws, root, "paper")
    for said in (run_id(root, "relu"), "A0", "95 % interval"):
        assert said in text
    fits = json.loads(call(laws, root, "paper", "--json"))["fits"]
    assert [each["law"] for each in fits] == ["relu", "silu"]
    assert fits[0]["identified"]["A0"]
    low, high = fits[0]["intervals"]["A0"]
    assert low < fits[0]["limit_activation_ratio"] < high
    rows = list(csv.DictReader(io.StringIO(call(laws, root, "paper", "--csv"))))
    assert [row["parameter"] for row in rows] == ["alpha", "b", "c", "A0", "alpha", "c", "A0"]
    assert float(rows[3]["low"]) == pytest.approx(low)


def test_predict_a_ratio(root) -> None:
    run = run_id(root, "relu")
    document = json.loads(call(predict, root, "paper", run, "--tokens", "800B", "--json"))
    (answer,) = document["predictions"]
    low, high = answer["interval"]
    assert answer["tokens"] == 800 * 10**9
    assert low < answer["activation_ratio"] < high
    assert "95 % interval" in call(predict, root, "paper", run, "--tokens", "8e11")


def test_predict_tokens_to_a_ratio(root) -> None:
    run = run_id(root, "relu")
    verdicts = {}
    for ratio in (0.08, 0.0722, 0.05):
        text = call(predict, root, "paper", run, "--ratio", ratio, "--json")
        verdicts[ratio] = json.loads(text)["predictions"][0]
    assert [each["verdict"] for each in verdicts.values()] == ["reached", "cannot say", "never"]
    assert verdicts[0.08]["interval"][0] < verdicts[0.08]["tokens"] < verdicts[0.08]["interval"][1]
    assert verdicts[0.05]["interval"] == [None, None]
    assert "never" in call(predict, root, "paper", run, "--ratio", 0.05)
    assert "cannot say" in call(predict, root, "paper", run, "--ratio", 0.0722)


def test_what_is_not_there_or_not_right(root) -> None:
    run = run_id(root, "silu")
    for arguments in (["paper", "nobody"], ["nobody", run], ["paper", run_id(root, "gelu")]):
        with pytest.raises(NotFoundError):
            call(predict, root, *arguments, "--tokens", "1B")
    for wrong in ("-1", "many", "0", "nan"):
        with pytest.raises(DefinitionError):
            call(predict, root, "paper", run, "--tokens", wrong)
    for wrong in (1.5, -0.1, "nan"):
        with pytest.raises(DefinitionError):
            call(predict, root, "paper", run, "--ratio", wrong)
    for command, arguments in (
        (predict, ["paper", run]),
        (predict, ["paper", run, "--tokens", "1B", "--ratio", "0.1"]),
        (laws, ["paper", "--json", "--csv"]),
    ):
        assert CliRunner().invoke(command, [*arguments, "--store", str(root)]).exit_code == 2


def test_a_study_without_fits_says_so(tmp_path) -> None:
    study = Study.model_validate(
        {
            "name": "empty",
            "axes": {"scale": [{"d_h": 32, "layers": 2, "heads": 2}]},
            "tokens": "10M",
            "data": {"domains": {"code": {"kind": "python-stdlib"}}, "sequence_tokens": 64},
            "optimization": {"batch_tokens": 6400},
        }
    )
    StudyStore.create(tmp_path, study)
    assert "no fits yet" in call(laws, tmp_path, "empty")
    assert json.loads(call(laws, tmp_path, "empty", "--json"))["fits"] == []
    assert call(laws, tmp_path, "empty", "--csv").startswith("run,law,stage,")
