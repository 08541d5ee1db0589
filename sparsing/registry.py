"""Activation functions and metrics: all that any room knows of one stands in its entry here.

To add one is to add an entry. The module belongs to no room and imports none, nor torch, so that
definitions, kernels and reports read the same: what needs torch is written as text, and becomes a
function where torch is.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ActivationEntry:
    """An activation function of a gate."""

    title: str
    """As the literature writes it."""
    formula: str
    """sigma(x) in torch, with `x` a tensor and `functional` torch.nn.functional. Its derivative is
    torch's own."""
    law: str
    """The paper's form of the sparsity law: `relu` where gates become exact zeros, and the ratio
    falls with data; `silu` where it rises."""
    colours: tuple[str, str, str]
    """Light, plain and deep, of its curves; hues that stay apart for colour-blind readers."""
    in_triton: bool = False
    """Whether `kernels.gpu.decode` has it; else its gates are computed by torch."""


ACTIVATIONS: dict[str, ActivationEntry] = {
    "relu": ActivationEntry(
        title="ReLU",
        formula="functional.relu(x)",
        law="relu",
        colours=("#86c5e8", "#0072b2", "#123a75"),
        in_triton=True,
    ),
    "silu": ActivationEntry(
        title="SiLU",
        formula="functional.silu(x)",
        law="silu",
        colours=("#f0b25f", "#d55e00", "#7d2418"),
        in_triton=True,
    ),
    "relu2": ActivationEntry(
        title="ReLU²",
        formula="functional.relu(x).square()",
        law="relu",
        colours=("#7fd0b4", "#009e73", "#0c4f3c"),
        in_triton=True,
    ),
    "gelu": ActivationEntry(
        title="GELU",
        formula="functional.gelu(x)",
        law="silu",
        colours=("#dba4c9", "#a3568b", "#5a2149"),
        in_triton=True,
    ),
}
"""By the names that definitions use."""


@dataclass(frozen=True, kw_only=True)
class MetricEntry:
    """A definition of active neurons."""

    title: str
    """As reports write it."""
    parameter: str | None = None
    """Name of its parameter."""
    rule: str | None = None
    """Class of its rule in `kernels.activity`, made from the parameter, if the same in each layer;
    None: thresholds of layers are searched on the choosing half."""


METRICS: dict[str, MetricEntry] = {
    "relu": MetricEntry(title="straightforward ReLU", rule="StraightforwardRelu"),
    "topk": MetricEntry(title="Top-k", parameter="k", rule="TopK"),
    "fat": MetricEntry(title="FAT-ε", parameter="eps", rule="Fat"),
    "cett": MetricEntry(title="CETT", parameter="cett"),
    "cett_ppl": MetricEntry(title="CETT-PPL-p%", parameter="p"),
}
"""By the names that commands and tables use."""
