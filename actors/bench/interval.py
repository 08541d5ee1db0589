"""`sparsing bench interval`: how often the 95 % interval of an activation ratio holds the truth.

A small model is trained for a moment on Python's standard library. The truth is its CETT-PPL-1%
activation ratio on `ALL_SEQUENCES` sequences that it was not trained on; each of many random
samples of them, half to choose and half to report, gives a measurement with its interval. Counted
beside it: the interval that takes the thresholds as given, as one without the choosing half would.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from sparsing.actors.bench.models import trained
from sparsing.actors.data.order import TrainingOrder
from sparsing.actors.data.prepare import prepare
from sparsing.actors.data.prepared import PreparedData
from sparsing.actors.measuring.measure import Interval, measure_at, measure_rules
from sparsing.actors.measuring.search import Probe, search_cett
from sparsing.actors.models.sequences import Sequences
from sparsing.actors.models.subject import Subject
from sparsing.actors.models.transformer import ModelConfig
from sparsing.study.bench.bench import Case, measured_once
from sparsing.study.definition.load import load_study

P_PERCENT = 1.0
ALL_SEQUENCES = 4096
SAMPLE_SEQUENCES = 64
"""Sequences of each half of a sample."""
SAMPLES_PER_REPEAT = 20
STEPS, STEP_SEQUENCES, LEARNING_RATE = 400, 8, 0.003
NOMINAL = 0.95


def cases(repeats: int) -> list[Case]:
    """ReLU and SiLU: share of intervals that hold the ratio of all sequences."""
    torch.set_num_threads(1)
    found = []
    with tempfile.TemporaryDirectory(prefix="sparsing-bench-") as folder:
        data = prepare(load_study("quickstart"), Path(folder), None)
        everything = unseen(data)
        for activation in ("relu", "silu"):
            config = ModelConfig(
                d_h=32,
                layers=4,
                d_f=80,
                heads=2,
                activation=activation,
                vocabulary_size=data.vocabulary_size,
                dim_model_base=128,
            )
            subject = trained(
                config,
                data,
                steps=STEPS,
                sequences=STEP_SEQUENCES,
                learning_rate=LEARNING_RATE,
            )
            found += coverage(activation, subject, everything, repeats * SAMPLES_PER_REPEAT)
    return found


def unseen(data: PreparedData) -> Sequences:
    """Sequences of the training order after those that the model is trained on."""
    tokens = TrainingOrder(data, seed=0).sequences(STEPS * STEP_SEQUENCES, ALL_SEQUENCES)
    zeros = np.zeros(len(tokens), dtype=np.int64)
    return Sequences(tokens=tokens, domain=zeros, domains=("text",), shares=np.ones(1))


def coverage(name: str, subject: Subject, everything: Sequences, samples: int) -> list[Case]:
    """Shares of `samples` intervals that hold the truth: ours, and of given thresholds."""
    truth = _ratio(subject, everything, everything)[0]
    both = [_ratio(subject, *halves) for halves in _halves(everything, samples)]
    case = partial(_case, f"{name}, {2 * SAMPLE_SEQUENCES * everything.counts[0]} tokens", samples)
    return [
        case("coverage", [interval[0] <= truth <= interval[1] for _, interval, _ in both]),
        case("coverage, thresholds given", [low <= truth <= high for *_, (low, high) in both]),
    ]


def _ratio(
    subject: Subject, choose: Sequences, report: Sequences
) -> tuple[float, Interval, Interval]:
    """Activation ratio, its interval, and the interval were its thresholds given."""
    probe = Probe(subject, choose)
    measured = measure_at(probe, report, search_cett([probe], P_PERCENT))
    given = measure_rules(subject, report, measured.rules, "cett_ppl", cett=measured.cett)
    return measured.mixture.activation_ratio, measured.mixture.interval, given.mixture.interval


def _halves(everything: Sequences, samples: int) -> Iterator[tuple[Sequences, Sequences]]:
    random = np.random.default_rng(0)
    for _ in range(samples):
        rows = random.choice(len(everything), 2 * SAMPLE_SEQUENCES, replace=False)
        yield everything.take(rows[::2]), everything.take(rows[1::2])


def _case(sample: str, samples: int, what: str, held: list[bool]) -> Case:
    return measured_once(
        f"{what}, {sample}",
        float(np.mean(held)),
        NOMINAL,
        baseline_name="nominal",
        unit=f"of {samples} intervals",
        better="higher",
        repeats=samples,
    )
