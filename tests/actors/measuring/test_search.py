"""Measuring: the search against bisection, sums that add up, nothing that depends on batches."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsing.actors.measuring.interval import DRAWS, cett_shifts, drawn_means, draws
from sparsing.actors.measuring.measure import Measurement, measure_at, measure_rules
from sparsing.actors.measuring.rows import sparsity_rows
from sparsing.actors.measuring.search import Found, Probe, search_cett
from sparsing.actors.models import subject as measure_model
from sparsing.actors.models.sequences import PADDING, Sequences
from sparsing.actors.models.subject import Subject
from sparsing.actors.models.transformer import ModelConfig, Transformer
from sparsing.kernels.activity import Cett, Fat, Rule, StraightforwardRelu, TopK

VOCABULARY = 50


def model_of(activation: str) -> Transformer:
    """A small model, taught for a moment that the next token is the double of this one."""
    torch.manual_seed(0)
    config = ModelConfig(
        d_h=32, layers=2, d_f=80, heads=2, activation=activation, vocabulary_size=VOCABULARY
    )
    model = Transformer(config).initialize(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(60):
        tokens = torch.from_numpy(text(100 + step, 16, padded=False))
        model(tokens[:, :-1], tokens[:, 1:]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def text(seed: int, count: int, padded: bool = True) -> np.ndarray:
    """Tokens that mostly double, (count, 25); every fourth sequence is padded."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, VOCABULARY, (count, 25))
    for place in range(1, 25):
        follows = rng.random(count) < 0.7
        tokens[follows, place] = tokens[follows, place - 1] * 2 % VOCABULARY
    if padded:
        tokens[3::4, 15:] = PADDING
    return tokens


def sequences_of(seed: int, count: int = 32) -> Sequences:
    return Sequences(
        tokens=text(seed, count),
        domain=np.repeat([0, 1], [count // 4, count - count // 4]),
        domains=("a", "b"),
        shares=np.array([0.6, 0.4]),
    )


def subject_of(model: Transformer) -> Subject:
    return Subject(model, model, VOCABULARY, torch.device("cpu"))


MODELS = {name: model_of(name) for name in ("relu", "silu")}
CHOOSE, REPORT = sequences_of(1), sequences_of(2)


@pytest.fixture(params=["relu", "silu"])
def subject(request: pytest.FixtureRequest) -> Subject:
    return subject_of(MODELS[request.param])


def measured(subject: Subject, cett: float) -> Measurement:
    return measure_at(Probe(subject, CHOOSE), REPORT, Found(cett=cett))


def sorted_eps(subject: Subject, cett: float) -> list[float]:
    """Exact thresholds of CHOOSE: all contributions of all tokens, weighted, in float64."""
    real = torch.from_numpy(CHOOSE.tokens[:, 1:] != PADDING)
    weights = torch.from_numpy(np.broadcast_to(CHOOSE.weights[:, None], real.shape).copy())[real]
    found: list[float] = []

    def visit(layer: int, batch: slice, gate: torch.Tensor, z: torch.Tensor, _) -> None:
        assert batch == slice(0, len(CHOOSE))
        w_out = subject.ffns[layer].w_out.weight.detach().double()
        mine = z[real].double()
        sizes, order = (mine.abs() * w_out.norm(dim=0)).sort(-1)
        vectors = w_out.T[order] * mine.gather(1, order).unsqueeze(-1)
        tails = vectors.cumsum(1).norm(dim=-1)
        rises = (tails / tails[:, -1:]).diff(prepend=tails[:, :1] * 0, dim=1) * weights[:, None]
        values, place = sizes.flatten().sort()
        means = rises.flatten()[place].cumsum(0)
        found.append(float(values[(means >= cett).nonzero()[0]]))

    subject.losses(CHOOSE, visit)
    return found


@pytest.mark.parametrize("cett", [0.02, 0.15, 0.5])
def test_thresholds_are_those_of_sorting(subject: Subject, cett: float) -> None:
    assert Probe(subject, CHOOSE).thresholds(cett) == pytest.approx(
        sorted_eps(subject, cett), rel=1e-4
    )


def test_search_ends_where_perplexity_rises_as_wished(subject: Subject) -> None:
    probe = Probe(subject, CHOOSE)
    found = search_cett([probe], 10.0)
    rise = CHOOSE.mean(probe.sparse_losses(found.cett) - probe.dense_losses())
    assert 100 * math.expm1(rise) == pytest.approx(10, rel=0.1)


def rows(probe: Probe) -> list[dict[str, object]]:
    return sparsity_rows(measure_at(probe, REPORT, search_cett([probe], 10.0)))


def test_a_kept_profile_gives_the_same_rows_to_the_bit(subject: Subject) -> None:
    probe = Probe(subject, CHOOSE)
    for cett in (0.5, 0.03, 0.2):
        probe.thresholds(cett)
    assert rows(Probe(subject, CHOOSE, probe.profile)) == rows(Probe(subject, CHOOSE))


def test_several_checkpoints_rise_as_wished_in_the_mean_of_their_ratios() -> None:
    probes = [Probe(subject_of(model), CHOOSE) for model in MODELS.values()]
    cett = search_cett(probes, 10.0).cett
    rises = [math.exp(CHOOSE.mean(p.sparse_losses(cett) - p.dense_losses())) for p in probes]
    assert 100 * (np.mean(rises) - 1) == pytest.approx(10, rel=0.1)


@given(low=st.floats(1e-3, 0.9), high=st.floats(1e-3, 0.9))
@settings(max_examples=5, deadline=None)
def test_activation_ratio_falls_with_cett(low: float, high: float) -> None:
    low, high = sorted((low, high))
    model = subject_of(MODELS["silu"])
    assert measured(model, low).mixture.activation_ratio >= (
        measured(model, high).mixture.activation_ratio
    )


def test_rescaled_and_permuted_neurons_are_as_active() -> None:
    """W_in by a and W_out by 1/a is the same ReLU FFN, and so is any order of its neurons."""
    expected = measured(subject_of(MODELS["relu"]), 0.2).mixture
    other = Transformer(MODELS["relu"].config)
    other.load_state_dict(MODELS["relu"].state_dict())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in other.layers:
            ffn, order = layer.ffn, torch.randperm(80, generator=generator)
            scale = torch.rand(80, generator=generator) + 0.5
            ffn.w_gate.weight.copy_(ffn.w_gate.weight[order])
            ffn.w_in.weight.copy_(ffn.w_in.weight[order] * scale[:, None])
            ffn.w_out.weight.copy_(ffn.w_out.weight[:, order] / scale)
    changed = measured(subject_of(other), 0.2).mixture
    assert changed.activation_ratios == pytest.approx(expected.activation_ratios, rel=1e-3)
    assert changed.sparse_loss == pytest.approx(expected.sparse_loss, rel=1e-4)


@pytest.mark.parametrize("tokens", [1, 100])
def test_batches_change_nothing(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    whole = measured(subject, 0.2)
    monkeypatch.setattr(measure_model, "FORWARD_TOKENS", tokens)
    parts = measured(subject, 0.2)
    assert parts.thresholds == pytest.approx(whole.thresholds, rel=1e-5)
    assert parts.mixture.activation_ratio == pytest.approx(whole.mixture.activation_ratio, rel=1e-3)
    assert parts.mixture.dense_loss == pytest.approx(whole.mixture.dense_loss, rel=1e-5)


def test_sums_add_up(subject: Subject) -> None:
    found = measured(subject, 0.2)
    mixture, parts = found.mixture, [found.parts["a"], found.parts["b"]]
    assert mixture.activation_ratio == pytest.approx(np.mean(mixture.activation_ratios))
    for value in ("activation_ratio", "dense_loss", "sparse_loss"):
        a, b = (getattr(part, value) for part in parts)
        assert getattr(mixture, value) == pytest.approx(0.6 * a + 0.4 * b)
    assert sum(count for _, count in found.vocabulary.values()) == mixture.tokens
    by_token = sum(ratio * count for ratio, count in found.vocabulary.values())
    by_domain = sum(part.activation_ratio * part.tokens for part in parts)
    assert by_token == pytest.approx(by_domain, rel=1e-5)


@pytest.mark.parametrize("rule", [Cett(0.3), TopK(60), Fat(0.0), StraightforwardRelu()])
def test_counts_are_those_of_plain_hooks_in_the_sparse_and_the_dense_run(
    subject: Subject, rule: Rule
) -> None:
    """Neurons that contribute with all layers sparse; exact zeros never, whatever the rule."""
    counted: list[list[torch.Tensor]] = [[], []]
    real = torch.from_numpy(REPORT.tokens[:, 1:] != PADDING)
    weights = (real * torch.from_numpy(REPORT.weights)[:, None]).double()
    tokens = torch.from_numpy(REPORT.tokens[:, :-1]).clamp(min=0)
    for run, rules in ((0, None), (1, rule)):
        hooks = []
        for ffn in subject.ffns:
            norms = ffn.w_out.weight.norm(dim=0)

            def hook(module, given, output, ffn=ffn, run=run, norms=norms):
                gate = ffn.sigma(ffn.w_gate(given[0]))
                z = gate * ffn.w_in(given[0])
                active = rule.active(gate, z, norms) & (z * norms != 0)
                counted[run].append((active.double().mean(-1) * weights).sum())

            hooks.append(ffn.register_forward_hook(hook))
            ffn.rule = rules
        with torch.no_grad():
            subject.model(tokens)
        for hooked, ffn in zip(hooks, subject.ffns, strict=True):
            hooked.remove()
            ffn.rule = None
    found = measure_rules(subject, REPORT, [rule] * len(subject.ffns), "any").mixture
    assert found.dense_run_ratios == pytest.approx(torch.stack(counted[0]).tolist(), rel=1e-5)
    assert found.activation_ratios == pytest.approx(torch.stack(counted[1]).tolist(), rel=1e-5)
    if subject.gates_are_zero and isinstance(rule, TopK | Fat):
        assert max(found.activation_ratios) < 0.7
    if isinstance(rule, Cett):
        assert found.activation_ratios[1] != pytest.approx(found.dense_run_ratios[1], rel=1e-6)


def test_tokens_whose_output_is_zero_are_said() -> None:
    model = Transformer(MODELS["relu"].config)
    model.load_state_dict(MODELS["relu"].state_dict())
    torch.nn.init.zeros_(model.layers[1].ffn.w_out.weight)
    rows = sparsity_rows(measured(subject_of(model), 0.2))
    zeros = {row["layer"]: row["zero_output_ratio"] for row in rows if "layer" in row}
    assert zeros == {0: 0.0, 1: 1.0}


def test_padding_counts_in_no_mean(subject: Subject) -> None:
    """The naive mean over all positions of the batch is another ratio."""
    found = measured(subject, 0.2)
    longer = np.pad(REPORT.tokens, ((0, 0), (0, 15)), constant_values=PADDING)
    padded = measure_at(Probe(subject, CHOOSE), replace(REPORT, tokens=longer), Found(cett=0.2))
    assert padded.mixture.activation_ratio == pytest.approx(found.mixture.activation_ratio)
    assert padded.mixture.sparse_loss == pytest.approx(found.mixture.sparse_loss, rel=1e-5)
    assert padded.mixture.tokens == found.mixture.tokens < REPORT.tokens[:, 1:].size
    naive: list[torch.Tensor] = []

    def visit(layer: int, _: slice, gate: torch.Tensor, z: torch.Tensor, out) -> None:
        norms = subject.ffns[layer].w_out.weight.norm(dim=0)
        naive.append(found.rules[layer].active(gate, z, norms).float().mean())

    subject.losses(replace(REPORT, tokens=longer), visit)
    assert float(torch.stack(naive).mean()) != pytest.approx(
        found.mixture.activation_ratio, rel=1e-3
    )


def test_bfloat16_models_are_measured_at_the_thresholds_found() -> None:
    """The CETT of the masked model, at a threshold applied in use, stays below the target."""
    model = Transformer(MODELS["relu"].config)
    model.load_state_dict(MODELS["relu"].state_dict())
    subject = subject_of(model.bfloat16())
    probe = Probe(subject, CHOOSE)
    eps = probe.thresholds(0.2)
    window = probe.windows[0]
    assert window is not None
    assert 0.19 < float(window.cett_of_sequences(eps[0]).sum()) <= 0.2
    again = measure_rules(subject, CHOOSE, [Cett(e) for e in eps], "cett", cett=0.2)
    assert 0 < again.mixture.activation_ratio < 1


def test_a_searched_cett_moves_with_the_rise_and_walks_on_the_way() -> None:
    """log(rise) goes along the slope, and walks: 2 var(rise) in a distance of 1."""
    generator = np.random.default_rng(1)
    count, slope = 2000, 2.5
    tokens = generator.integers(0, VOCABULARY, (count, 9))
    zeros = np.zeros(count, dtype=np.int64)
    sequences = Sequences(tokens=tokens, domain=zeros, domains=("text",), shares=np.ones(1))
    noise = generator.normal(0, 0.1 * math.sqrt(count), count)
    dense = np.full(count, 8 * 3.0)
    sparse = dense + 8 * 0.01 * (1 + noise - noise.mean())
    still = [np.zeros((2, DRAWS))]
    shifts = cett_shifts(sequences, [dense], [sparse], still, slope)
    rises = np.expm1(drawn_means(sequences, draws(sequences), sparse - dense))
    along = -np.log(rises / math.expm1(0.01)) / slope
    assert along.std() == pytest.approx(0.1 / slope, rel=0.1)
    walked = 0.1 * math.sqrt(2 * np.abs(along).mean()) / slope
    assert (shifts - along).std() == pytest.approx(walked, rel=0.1)
