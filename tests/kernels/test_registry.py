"""One entry is all it takes: a made-up activation function and metric, seen by every room."""

from __future__ import annotations

import subprocess
import sys

MADE_UP = """
from sparsing import registry

registry.ACTIVATIONS["mish"] = registry.ActivationEntry(
    title="Mish", formula="functional.mish(x)", law="silu", colours=("#111", "#222", "#333")
)
registry.METRICS["fat2"] = registry.MetricEntry(title="FAT again", parameter="eps", rule="Fat")

import torch
from sparsing.actors.measuring.metric_names import METRICS
from sparsing.actors.measuring.precision import Metric
from sparsing.analysis.refitting.refit import LAW_OF_ACTIVATION
from sparsing.analysis.figures.data import NAMES
from sparsing.analysis.figures.style import RAMPS
from sparsing.kernels.activity import Fat
from sparsing.kernels.ffn import GatedFFN
from sparsing.study.definition.model import Axes

assert Axes(activation=["mish"], scale=["0.1B"]).activation == ["mish"]
ffn = GatedFFN(4, 10, "mish")
x = torch.randn(3, 4)
expected = ffn.w_out(torch.nn.functional.mish(ffn.w_gate(x)) * ffn.w_in(x))
assert torch.equal(ffn(x), expected)
ffn.use_exact()
assert torch.allclose(ffn(x), expected, atol=1e-6)
assert (LAW_OF_ACTIVATION["mish"], NAMES["mish"], RAMPS["mish"][1]) == ("silu", "Mish", "#222")
assert "fat2" in METRICS
metric = Metric(name="fat2", parameter=0.5)
assert metric.rule() == Fat(0.5)
assert not metric.chooses
"""


def test_adding_an_activation_function_and_a_metric_is_one_entry_each() -> None:
    done = subprocess.run([sys.executable, "-c", MADE_UP], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_registry_loads_nothing_heavy_and_no_other_room() -> None:
    code = "import sys, sparsing.registry; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    rooms = ("sparsing.kernels", "sparsing.actors", "sparsing.analysis")
    heavy = ("torch", "numpy", "polars", "pydantic", "scipy", "ray")
    assert not {*heavy, *rooms} & set(loaded.split())
