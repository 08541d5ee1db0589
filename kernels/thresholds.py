"""Thresholds to take away: those of a measured model in a file, and neurons' own thresholds.

    metadata: format, metric, cett, quantity ("intermediate"), comparison (">=, float32")
    layers.<i>.eps       float32 scalar, on ||n_i||
    layers.<i>.neurons   float32 (d_f,), eps / ||W_out[:, i]||, on |z_i|

where z = sigma(W_gate x) * (W_in x) is what goes into the output layer. Whoever keeps the neurons
with |z_i| >= neurons[i] has the masks of the measurement, to the last bit: rounding is taken care
of here (`neuron_thresholds`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sparsing.kernels.activity import at_least

FORMAT = "sparsing-thresholds-1"


def neuron_thresholds(eps: float, norms: Tensor) -> Tensor:
    """Smallest float32 t_i for which t_i ||W_out[:, i]|| >= eps in float32: (d_f,) -> (d_f,).

    That is eps / ||W_out[:, i]|| but for its last bits, which are such that `|z_i| >= t_i` and
    `|z_i| ||W_out[:, i]|| >= eps` never differ. A neuron that puts nothing out has `inf`, or 0
    where eps is 0.
    """
    limit = torch.tensor(eps, dtype=torch.float32, device=norms.device)
    # Floats from 0 to inf are in the order of their bits: halve the range of those.
    low = torch.full_like(norms, -1, dtype=torch.int32)
    high = torch.full_like(norms, torch.inf).view(torch.int32)
    for _ in range(32):
        middle = low + (high - low) // 2
        reached = middle.view(torch.float32) * norms >= limit
        high, low = torch.where(reached, middle, high), torch.where(reached, low, middle)
    return high.view(torch.float32)


@dataclass(frozen=True, eq=False)
class NeuronThresholds:
    """Active where |z_i| is at least the neuron's own threshold: the rule of such a file."""

    thresholds: Tensor
    """(d_f,), float32."""

    def active(self, gate: Tensor, intermediate: Tensor, norms: Tensor) -> Tensor:
        """As in `sparsing.kernels.activity.Rule`."""
        return at_least(intermediate.abs(), self.thresholds.to(intermediate.device))


def save_thresholds(
    path: Path, layers: list[tuple[float, Tensor]], metric: str, cett: float
) -> None:
    """Write a file of thresholds.

    Args:
        layers: eps and ||W_out[:, i]||, (d_f,), of each layer.
        metric: `cett` or `cett_ppl`.
        cett: the CETT value.
    """
    tensors = {}
    for index, (eps, norms) in enumerate(layers):
        tensors[f"layers.{index}.eps"] = torch.tensor(eps, dtype=torch.float32)
        tensors[f"layers.{index}.neurons"] = neuron_thresholds(eps, norms).cpu()
    about = {
        "format": FORMAT,
        "metric": metric,
        "cett": repr(cett),
        "quantity": "intermediate",
        "comparison": ">=, float32",
    }
    save_file(tensors, path, metadata=about)


def load_thresholds(path: Path) -> list[NeuronThresholds]:
    """The rules of a file of thresholds, one for each layer.

    Raises:
        ValueError: the file is not one.
    """
    try:
        with safe_open(path, framework="pt") as file:
            said = (file.metadata() or {}).get("format")
            if said != FORMAT:
                raise ValueError(f"{path} is no file of thresholds: format {said}, not {FORMAT}")
            count = sum(name.endswith(".neurons") for name in file.keys())  # noqa: SIM118
            names = [f"layers.{index}.neurons" for index in range(count)]
            return [NeuronThresholds(file.get_tensor(name)) for name in names]
    except SafetensorError as error:
        raise ValueError(f"{path} is no file of thresholds ({error})") from error
