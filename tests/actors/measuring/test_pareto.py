"""Pareto curves: every way near the grid, measured as the metric is, in few forwards, once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from pareto_study import save_model, study
from polars.testing import assert_frame_equal

from sparsing.actors.data.prepare import prepare
from sparsing.actors.measuring.measure import measure_rules
from sparsing.actors.measuring.measurer import Measurer
from sparsing.actors.measuring.pareto import RATIOS, cett_thresholds, gate_thresholds, pareto
from sparsing.actors.measuring.search import Probe
from sparsing.actors.models.sequences import PADDING, Sequences
from sparsing.actors.models.subject import Subject
from sparsing.actors.models.transformer import ModelConfig, Transformer
from sparsing.kernels.activity import Fat, StraightforwardRelu, TopK, at_least
from sparsing.study.plan.runs import plan_runs
from sparsing.study.store.study_store import StudyStore

VOCABULARY = 64


def subject_of(activation: str) -> Subject:
    """A small model with biased gates, as trained ones have: ReLU keeps few of them."""
    torch.manual_seed(0)
    config = ModelConfig(
        d_h=32, layers=3, d_f=96, heads=2, activation=activation, vocabulary_size=VOCABULARY
    )
    model = Transformer(config)
    with torch.no_grad():
        for layer in model.layers:
            # Tokens share a direction in which most gates are negative.
            layer.ffn.w_gate.weight.mul_(4).sub_(0.02)
            model.embedding.weight[:, ::2].abs_()
            layer.ffn.w_in.weight.mul_(4)
    return Subject(model, model, VOCABULARY, torch.device("cpu"))


def sequences_of(seed: int, count: int = 48) -> Sequences:
    """Two domains of unlike text and weight; the last sequence of each is padded."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, VOCABULARY, (count, 33))
    tokens[: count // 2] %= VOCABULARY // 4
    tokens[[count // 2 - 1, -1], 20:] = PADDING
    return Sequences(
        tokens=tokens,
        domain=np.repeat([0, 1], count // 2),
        domains=("low", "all"),
        shares=np.array([0.75, 0.25]),
    )


CHOOSE, REPORT = sequences_of(1), sequences_of(2)


@pytest.fixture(scope="module", params=["relu", "silu", "relu2"])
def subject(request: pytest.FixtureRequest) -> Subject:
    return subject_of(request.param)


@pytest.fixture(scope="module", params=["relu", "silu"])
def measured(request: pytest.FixtureRequest) -> tuple:
    subject = subject_of(request.param)
    return request.param, subject, list(pareto(subject, CHOOSE, REPORT))


def ratios_of(points: list, way: str) -> np.ndarray:
    return np.array([p.mixture.activation_ratio for p in points if p.metric == way])


def test_every_way_comes_near_the_ratios_that_it_can_reach(measured) -> None:
    activation, _, points = measured
    (most,) = ratios_of(points, "relu") if activation == "relu" else [1.0]
    reachable = [ratio for ratio in RATIOS if ratio < min(0.9 * most, 0.6)]
    assert len(reachable) >= 5
    for way in ("fat", "cett"):
        found = ratios_of(points, way)
        assert (found <= most).all()
        np.testing.assert_allclose(found[: len(reachable)], reachable, rtol=0.15)
    taken = np.minimum(RATIOS, most)
    found = ratios_of(points, "topk")
    np.testing.assert_allclose(found[: len(reachable)], taken[: len(reachable)], atol=0.5 / 96)
    # Exact zeros that are among the k count nowhere.
    assert (found <= most + 1e-9).all()


def test_straightforward_relu_is_a_point_of_relu_alone_and_costs_nothing(measured) -> None:
    activation, _, points = measured
    straight = [point for point in points if point.metric == "relu"]
    assert len(straight) == (activation == "relu")
    for point in straight:
        assert point.parameter is None
        assert point.mixture.ppl_rise_percent == pytest.approx(0, abs=1e-3)


def test_points_are_what_the_metric_measures_with_the_same_rules(measured) -> None:
    _, subject, points = measured
    rules = {"relu": lambda _: StraightforwardRelu(), "topk": TopK, "fat": Fat}
    for point in points[:3] + points[8:11]:
        layers = [rules[point.metric](point.parameter)] * len(subject.ffns)
        whole = measure_rules(subject, REPORT, layers, point.metric)
        assert set(point.parts) == {None, "low", "all"}
        for domain, part in point.parts.items():
            other = whole.parts[domain]
            assert part.tokens == other.tokens
            for name in ("activation_ratio", "dense_loss", "sparse_loss", "ppl_rise_percent"):
                assert getattr(part, name) == pytest.approx(getattr(other, name), rel=1e-6), name


def test_thresholds_of_gates_are_quantiles_of_the_weighted_mixture(subject: Subject) -> None:
    """Each domain counts by its weight, however many tokens it has; padding counts nowhere."""
    gates: list[torch.Tensor] = []
    subject.losses(CHOOSE, lambda _, __, gate, *___: gates.append(gate.abs()))
    real = torch.from_numpy(CHOOSE.tokens[:, 1:] != PADDING)
    weights = real * torch.from_numpy(CHOOSE.weights)[:, None]
    found = gate_thresholds(subject, CHOOSE, RATIOS[:4])
    assert len(found) == 4
    for eps, ratio in zip(found, RATIOS, strict=False):
        shares = [float((at_least(gate, eps).double().mean(-1) * weights).sum()) for gate in gates]
        assert np.mean(shares) == pytest.approx(ratio, rel=0.02)


def test_thresholds_of_cett_are_near_the_exact_crossings(subject: Subject) -> None:
    probe = Probe(subject, CHOOSE)
    found = cett_thresholds(probe, RATIOS)
    assert len(found) >= 4
    for cett, thresholds in found:
        exact = probe.thresholds(cett)
        np.testing.assert_allclose(thresholds, exact, rtol=0.05)


def test_cost_is_as_documented() -> None:
    """One forward of the reporting half and a sparse one for each point; under three to choose."""
    subject = subject_of("silu")
    seen: dict[int, int] = {}

    def counted(passes):
        def run(sequences, visit=None):
            seen[len(sequences)] = seen.get(len(sequences), 0) + 1
            return passes(sequences, visit)

        return run

    subject.losses, subject.predictions = map(counted, (subject.losses, subject.predictions))
    report = REPORT.take(np.arange(len(REPORT) - 1))
    points = list(pareto(subject, CHOOSE, report, RATIOS[:4]))
    assert len(points) == 12
    assert seen == {len(report): 1 + 12, len(CHOOSE): 2, len(CHOOSE) // 8: 1}


def test_order_of_the_grid_and_the_size_of_batches_change_nothing(monkeypatch) -> None:
    subject = subject_of("relu")
    monkeypatch.setattr("sparsing.actors.models.subject.FORWARD_TOKENS", 96)
    one = list(pareto(subject, CHOOSE, REPORT, [0.1, 0.02]))
    monkeypatch.undo()
    other = list(pareto(subject, CHOOSE, REPORT, [0.02, 0.1]))
    assert [point.metric for point in one] == ["relu", "topk", "topk", "fat", "fat", "cett", "cett"]
    for a, b in zip(one, other, strict=True):
        assert (a.parameter or 0) == pytest.approx(b.parameter or 0, rel=1e-3)
        ratio, loss = a.mixture.activation_ratio, a.mixture.sparse_loss
        assert ratio == pytest.approx(b.mixture.activation_ratio, rel=1e-3)
        assert loss == pytest.approx(b.mixture.sparse_loss, rel=1e-3)


def test_measurer_writes_the_curves_of_the_last_checkpoint_before_the_decay_once(
    tmp_path: Path,
) -> None:
    store = StudyStore.create(tmp_path, study(pareto=False))
    (run,) = plan_runs(store.study)
    assert run.checkpoint_steps == (4, 8)
    for step in run.checkpoint_steps:
        save_model(store, run.id, step)
    data = prepare(store.study, tmp_path / "data")
    Measurer(str(store.path), str(data.path)).measure_final(run, attempt=1)
    assert not len(store.scan("pareto").collect())
    StudyStore.create(tmp_path, study(pareto=True))
    measurer = Measurer(str(store.path), str(data.path))
    measurer.measure_final(run, attempt=2)
    rows = store.scan("pareto").collect()
    assert set(rows["step"]) == {4}
    assert set(rows["metric"]) == {"relu", "topk", "fat", "cett"}
    assert set(rows["domain"]) == {None, "code"}
    assert rows.filter(pl.col("parameter").is_null())["metric"].unique().to_list() == ["relu"]
    measurer.measure_final(run, attempt=3)
    assert_frame_equal(store.scan("pareto").collect(), rows)


def test_curves_are_no_part_of_the_study_s_id() -> None:
    assert study(pareto=True).study_id == study(pareto=False).study_id == study().study_id
    assert study(p_percent=2.0).study_id != study().study_id
