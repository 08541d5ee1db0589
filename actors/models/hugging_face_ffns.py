"""The MLPs of a Hugging Face model give way to `GatedFFN`, which shares their weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsing.kernels.ffn import GatedFFN
from sparsing.study.definition.messages import nearest_key
from sparsing.study.errors import DefinitionError

PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
"""Linear layers of a gated FFN, as the Llama family and its like name them."""


def replace_ffns(model: Any, folder: Path) -> None:
    """Put a `GatedFFN`, which shares the weights, in place of the MLP of each layer.

    Raises:
        DefinitionError: a layer has no gated FFN, several, or one that computes something else.
    """
    gated = {name: module for name, module in model.named_modules() if _is_gated(module)}
    layers = model.config.get_text_config().num_hidden_layers
    if any("expert" in name for name in gated) or _has_experts(model):
        raise DefinitionError(f"{folder}: a mixture of experts; only dense FFNs are measured")
    if len(gated) != layers:
        raise DefinitionError(
            f"{folder}: {len(gated)} of {layers} layers have a gated FFN with the linear layers "
            f"{', '.join(PROJECTIONS)}; only models with one in each layer are measured "
            "(Llama, MiniCPM, Mistral, Qwen2, Qwen3 and their like)"
        )
    for name, mlp in gated.items():
        try:
            gate, up, down = (getattr(mlp, projection) for projection in PROJECTIONS)
            _check_finite(mlp)
            ffn = GatedFFN.of(gate, up, down, _activation(mlp, model))
            _check_same(mlp, ffn)
        except ValueError as error:
            raise DefinitionError(f"{folder}: {name} cannot be measured: {error}") from error
        model.set_submodule(name, ffn)


def _is_gated(module: nn.Module) -> bool:
    return all(isinstance(getattr(module, name, None), nn.Linear) for name in PROJECTIONS)


def _has_experts(model: nn.Module) -> bool:
    return any(name.endswith("experts") for name, _ in model.named_modules())


def _activation(mlp: nn.Module, model: Any) -> Callable[[Tensor], Tensor]:
    """The MLP's own activation function, or that which the configuration names."""
    own = getattr(mlp, "act_fn", None)
    if callable(own):
        return own
    from transformers.activations import ACT2FN

    name = activation_name(model.config.get_text_config())
    if name not in ACT2FN:
        raise ValueError("its configuration names no activation function")
    return ACT2FN[name]


def check_activation(config: Any, folder: Path) -> None:
    """Raises DefinitionError where a configuration names an activation function nobody knows."""
    from transformers.activations import ACT2FN

    name = activation_name(config.get_text_config())
    if name != "?" and name not in ACT2FN:
        near = nearest_key(name, ACT2FN) or "silu"
        raise DefinitionError(
            f"{folder}: its activation function {name!r} is unknown; correct hidden_act in "
            f"config.json (such as {near})"
        )


def activation_name(config: Any) -> str:
    """Activation function as a configuration names it; `?` where it does not."""
    return getattr(config, "hidden_act", None) or getattr(config, "hidden_activation", None) or "?"


def _check_finite(mlp: nn.Module) -> None:
    """Raises ValueError where a weight is no number."""
    for name, weight in mlp.named_parameters():
        if not weight.isfinite().all():
            raise ValueError(f"{name} holds NaN or infinity; the weights are damaged")


@torch.no_grad()
def _check_same(mlp: nn.Module, ffn: GatedFFN) -> None:
    """Raises ValueError where the MLP computes something else than a gated FFN."""
    weight = ffn.w_gate.weight
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, weight.shape[1], generator=generator).to(weight)
    before, after = mlp(x), ffn(x)
    if not isinstance(before, Tensor) or not torch.allclose(before, after, rtol=1e-4, atol=1e-6):
        raise ValueError("it computes something else than down(act(gate(x)) * up(x))")
