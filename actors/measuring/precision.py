"""A metric on one checkpoint or several, on as many sequences as a wished precision takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sparsing.actors.measuring.inputs.text import SMALLEST_SEQUENCES, Halves
from sparsing.actors.measuring.measure import Measurement, measure_at, measure_rules
from sparsing.actors.measuring.search import Found, Probe, search_cett
from sparsing.actors.models.sequences import Sequences
from sparsing.actors.models.subject import Subject
from sparsing.kernels import activity
from sparsing.kernels.activity import Rule
from sparsing.registry import METRICS
from sparsing.study.errors import DefinitionError

FIRST_TOKENS = 16_384
"""Tokens, of both halves and all domains, that a search for precision begins with."""

GROWTH = (1.5, 6.0)
"""How much the sequences grow from one measurement to the next: at least, at most."""

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric with its parameter."""

    name: str
    """One of `sparsing.actors.measuring.metric_names.METRICS`."""
    parameter: float | None
    """k, eps, the CETT value or p in percent; None for `relu`."""

    @property
    def chooses(self) -> bool:
        """Whether thresholds are chosen, on the choosing half; else it is not used."""
        return METRICS[self.name].rule is None

    def check(self, subject: Subject, label: str) -> None:
        """Raise DefinitionError where the metric says nothing about a model."""
        smallest = min(ffn.w_out.in_features for ffn in subject.ffns)
        if self.name == "topk" and (self.parameter or 0) > smallest:
            raise DefinitionError(f"{label}: --k {self.parameter} is over its {smallest} neurons")
        if not self.chooses and not subject.gates_are_known:
            raise DefinitionError(
                f"{label}: its FFNs have no gate of their own to look at; take cett_ppl"
            )
        if self.name == "relu" and not subject.gates_are_zero:
            raise DefinitionError(
                f"{label}: its activation function gives no zeros, so metric relu calls every "
                "neuron active; take cett_ppl"
            )

    def rule(self) -> Rule:
        """The rule of a metric that is the same in every layer."""
        kind = getattr(activity, METRICS[self.name].rule or "")
        made: Rule = kind() if self.parameter is None else kind(self.parameter)
        return made


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a measurement of one or more checkpoints came to."""

    measurements: list[Measurement]
    """Of each checkpoint."""
    report: Sequences
    """What the activation ratios and losses come from."""
    chosen_tokens: int
    """Tokens of the half that thresholds were chosen on; 0 where none are."""

    @property
    def tokens(self) -> int:
        """Tokens that were used, to choose and to report."""
        return self.chosen_tokens + int(self.report.counts.sum())

    @property
    def precision(self) -> float:
        """The widest checkpoint's half 95 % interval over its activation ratio."""
        return max(relative_half_width(each) for each in self.measurements)


def relative_half_width(measured: Measurement) -> float:
    """Half the 95 % interval of the mean activation ratio, over that ratio."""
    low, high = measured.mixture.interval
    half = (high - low) / 2
    return half / measured.mixture.activation_ratio if half else 0.0


def measure_to_precision(
    subjects: Sequence[Subject], halves: Halves, metric: Metric, precision: float, say: Say
) -> Measured:
    """Measure on more and more sequences until the activation ratio is known so well.

    Returns:
        The first measurement precise enough, or the one on all there is.
    """
    positions = halves.report.positions
    smallest = FIRST_TOKENS // (2 * positions * len(halves.report.domains))
    count = max(SMALLEST_SEQUENCES, smallest)
    while True:
        measured = measure_once(subjects, halves.first(count), metric, say)
        reached = measured.precision
        say(f"{measured.tokens:,} tokens: known to ±{100 * reached:.2g} %")
        if reached <= precision or count >= halves.longest:
            return measured
        # The interval narrows with the root of the number of sequences.
        count = math.ceil(count * min(max(1.2 * (reached / precision) ** 2, GROWTH[0]), GROWTH[1]))


def measure_once(subjects: Sequence[Subject], halves: Halves, metric: Metric, say: Say) -> Measured:
    """Measure on all of these sequences.

    The CETT value is that of all checkpoints together, where the metric has one.
    """
    if not metric.chooses:
        say("counting active neurons, dense and sparse loss")
        measurements = [
            measure_rules(s, halves.report, [metric.rule()] * len(s.ffns), metric.name)
            for s in subjects
        ]
        return Measured(measurements=measurements, report=halves.report, chosen_tokens=0)
    assert metric.parameter is not None
    say("dense forwards of the choosing half")
    probes = [Probe(subject, halves.choose) for subject in subjects]
    if metric.name == "cett":
        found = Found(cett=metric.parameter)
    else:
        say("searching the CETT value")
        found = search_cett(probes, metric.parameter)
    say(f"CETT {found.cett:.4g}: counting active neurons, dense and sparse loss")
    measurements = [measure_at(probe, halves.report, found, metric.name) for probe in probes]
    chosen = int(halves.choose.counts.sum())
    return Measured(measurements=measurements, report=halves.report, chosen_tokens=chosen)
