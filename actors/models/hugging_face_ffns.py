"""The FFNs of a Hugging Face model, ready to be measured.

They are found by what they compute (`ffn_forms`). A gated FFN of three layers gives way to a
`GatedFFN` that shares its weights and was seen to compute the same; all others stay and are watched
and masked from outside (`hooked_ffn`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsing.actors.models.ffn_forms import Form, Seen, Sigma, forms_of, is_linear, seen_of
from sparsing.actors.models.hooked_ffn import ExpertFFN, ForeignFFN, HookedFFN
from sparsing.kernels.ffn import GatedFFN
from sparsing.study.definition.messages import nearest_key
from sparsing.study.errors import DefinitionError

AnyFFN = GatedFFN | ForeignFFN

ACTIVATION_KEYS = (
    "hidden_act",
    "hidden_activation",
    "activation_function",
    "activation",
    "mlp_hidden_act",
)
"""Where configurations name their activation function."""


@torch.no_grad()
def find_ffns(model: Any, folder: Path) -> list[AnyFFN]:
    """The FFNs of a model in the order of its layers, from now on under measurement.

    Raises:
        DefinitionError: a layer has none that was understood; says what was seen in it.
    """
    known = _activations(model)
    met: dict[str, Sigma] = {}
    found: list[AnyFFN] = []
    for name, layer in _layers(model, folder):
        seen = seen_of(model, layer)
        _check_finite(layer, f"{folder}: {name}")
        mine: list[AnyFFN] = []
        for each in seen:
            if _is_experts(each):
                mine.append(_experts(each, f"{folder}: {name}"))
        # Layers are mostly alike: first by what was met before.
        forms = forms_of(seen, met) or forms_of(seen, known)
        met |= {form.activation: form.sigma for form in forms}
        mine += [_taken(model, form, seen) for form in forms]
        if not mine:
            raise DefinitionError(f"{folder}: {name} has no FFN that is understood: {_words(seen)}")
        found += mine
    return found


def experts_of(ffns: list[Any]) -> dict[str, int] | None:
    """Experts of a layer, and of a token; None where there are none."""
    found = [ffn for ffn in ffns if isinstance(ffn, ExpertFFN)]
    return {"in_layer": found[0].count, "per_token": found[0].chosen} if found else None


def _layers(model: Any, folder: Path) -> list[tuple[str, nn.Module]]:
    """The decoder layers with their names."""
    count = model.config.get_text_config().num_hidden_layers
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    if not lists:
        raise DefinitionError(
            f"{folder}: no list of {count} decoder layers in {type(model).__name__}"
        )
    name, layers = min(lists, key=lambda each: each[0].count("."))
    return [(f"{name}.{index}", layer) for index, layer in enumerate(layers)]


def _activations(model: Any) -> dict[str, Sigma]:
    """Activation functions by name, that of the configuration first; each without weights."""
    from transformers.activations import ACT2CLS, ACT2FN

    named = activation_name(model.config.get_text_config())
    names = [named] * (named in ACT2CLS) + [name for name in ACT2CLS if name != named]
    found: dict[str, Sigma] = {}
    for name in names:
        if name not in ("prelu", "xielu", "linear"):
            found[name] = ACT2FN[name]
    return found


def _taken(model: Any, form: Form, seen: list[Seen]) -> AnyFFN:
    """A `GatedFFN` in the place of the module that computes the form, or the form with hooks."""
    replaced = _replaceable(model, form, seen)
    if replaced is None:
        return HookedFFN(form)
    name, ffn = replaced
    model.set_submodule(name, ffn)
    return ffn


def _replaceable(model: Any, form: Form, seen: list[Seen]) -> tuple[str, GatedFFN] | None:
    """The module that computes just `down(sigma(gate(x)) * up(x))`, and a `GatedFFN` as it."""
    three = (form.gate, form.up, form.down)
    if not form.plain or not all(type(each) is nn.Linear for each in three):
        return None
    if form.down.bias is not None:
        return None
    for each in seen:
        children = list(each.module.children())
        if all(any(one is child for child in children) for one in three):
            ffn = GatedFFN.of(*three, form.sigma)
            largest = float(each.given.abs().max())
            if torch.allclose(ffn(each.taken), each.given, rtol=1e-4, atol=1e-5 * largest):
                [name] = [n for n, m in model.named_modules() if m is each.module]
                return name, ffn
    return None


def _is_experts(seen: Seen) -> bool:
    """Whether a module holds the weights of several experts, as `transformers` stores them."""
    weights = [getattr(seen.module, name, None) for name in ("gate_up_proj", "down_proj")]
    return all(isinstance(each, Tensor) and each.dim() == 3 for each in weights)


def _experts(seen: Seen, where: str) -> ExpertFFN:
    """The experts as one FFN, once they were seen to compute the same as the module itself."""
    module: Any = seen.module
    own = module.forward
    generator = torch.Generator().manual_seed(0)
    tokens, count = len(seen.taken), module.down_proj.shape[0]
    chosen = torch.stack([torch.randperm(count, generator=generator)[:2] for _ in range(tokens)])
    weights = torch.rand(tokens, chosen.shape[1], generator=generator).to(seen.taken)
    given = (seen.taken, chosen.to(seen.taken.device), weights)
    expected = own(*given)
    for transposed in (False, True):
        for in_turn in (False, True):
            ffn = ExpertFFN(module, transposed, in_turn)
            try:
                made = ffn.forward(*given)
            except (RuntimeError, ValueError):
                continue
            largest = float(expected.abs().max())
            if torch.allclose(made, expected, rtol=1e-4, atol=1e-5 * largest):
                module.forward = ffn.forward
                return ffn
    raise DefinitionError(f"{where}: its experts compute something that is not understood")


def _words(seen: list[Seen]) -> str:
    """The linear layers that were seen, for a message."""
    layers = [
        f"{each.taken.shape[-1]} -> {each.given.shape[-1]}"
        for each in seen
        if is_linear(each.module)
    ]
    if not layers:
        return "no linear layers were seen in it"
    return (
        f"linear layers {', '.join(layers[:8])}, of which none takes act(a), act(a) * b or "
        "act(a) * act(b) of others"
    )


def fatrelu(threshold: float) -> Callable[..., nn.Module]:
    """FATReLU: x where x > threshold, else 0; for `transformers`' table of activation functions."""

    class FatRelu(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where(x > threshold, x, 0)

    return FatRelu


def check_activation(config: Any, folder: Path) -> None:
    """Raises DefinitionError where a configuration names an activation function nobody knows."""
    from transformers.activations import ACT2CLS

    text = config.get_text_config()
    name = activation_name(text)
    if name == "fatrelu":
        # MiniCPM-S's, which `transformers` does not have; by the configuration of each model.
        ACT2CLS["fatrelu"] = fatrelu(float(getattr(text, "hidden_act_param", 0.0)))
        from transformers.activations import ACT2FN

        ACT2FN["fatrelu"] = ACT2CLS["fatrelu"]
    elif name != "?" and name not in ACT2CLS:
        near = nearest_key(name, ACT2CLS) or "silu"
        raise DefinitionError(
            f"{folder}: its activation function {name!r} is unknown; correct hidden_act in "
            f"config.json (such as {near})"
        )


def activation_name(config: Any) -> str:
    """Activation function as a configuration names it; `?` where it does not."""
    keys = (
        "hidden_act",
        "hidden_activation",
        "activation_function",
        "activation",
        "mlp_hidden_act",
    )
    return next((said for key in keys if isinstance(said := getattr(config, key, None), str)), "?")


def _check_finite(layer: nn.Module, where: str) -> None:
    """Raises DefinitionError where a weight is no number."""
    for name, weight in layer.named_parameters():
        if not weight.isfinite().all():
            raise DefinitionError(f"{where}.{name} holds NaN or infinity; the weights are damaged")
