"""Which linear layers of a decoder layer are its FFN, found by what they compute.

A forward of the model itself on real token ids shows what goes into and out of every linear layer.
An FFN is found where what goes into one layer, z, *is* one of these of what others put out, to
rounding:

    not gated      sigma(a)
    gated          sigma(a) * b        also with a and b from one fused layer, as halves or in turn
    both gated     sigma(a) * sigma(b)     (dReLU)

each also behind a norm (sub-norm). sigma is one of `transformers`' activation functions. Names say
nothing; what was not seen to compute this is not taken for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Sigma = Callable[[Tensor], Tensor]

TOKENS = 12
"""Of the forward that is looked at: few, for everything that linear layers see is held."""

CLOSE = {torch.float32: 1e-5, torch.float64: 1e-5}
"""Relative to the largest value: what rounds otherwise is still the same."""
ROUGH = 0.02
"""As `CLOSE`, for other precisions."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """An FFN as it was found."""

    gate: nn.Module
    """The layer whose output (or a part of it) goes through sigma."""
    part: Callable[[Tensor], Tensor]
    """Takes that part."""
    up: nn.Module | None
    """The layer whose output multiplies it; None: it is not gated, or fused."""
    down: nn.Module
    """The layer that takes z."""
    sigma: Sigma
    activation: str
    """Its name."""
    words: str
    """What it computes, for people."""
    plain: bool
    """Whether it is `down(sigma(gate(x)) * up(x))` of three layers, with nothing between."""


@dataclass
class Seen:
    """What went through one module."""

    module: nn.Module
    taken: Tensor
    given: Tensor


def seen_of(model: nn.Module, layer: nn.Module) -> list[Seen]:
    """All modules of a decoder layer that map a tensor to a tensor, in order, in one forward."""
    found: list[Seen] = []

    def note(module: nn.Module, taken: tuple, given: Any) -> None:
        if taken and isinstance(taken[0], Tensor) and isinstance(given, Tensor):
            found.append(Seen(module, taken[0].detach(), given.detach()))

    hooks = [each.register_forward_hook(note) for each in layer.modules()]
    try:
        model(input_ids=_ids(model), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def forms_of(seen: list[Seen], known: dict[str, Sigma]) -> list[Form]:
    """The FFNs among what was seen of a decoder layer; `known`: activation functions by name."""
    linear = [each for each in seen if is_linear(each.module)]
    found = []
    for down in linear:
        before = [each for each in linear if each is not down]
        for z, norm in _behind_norms(down.taken, seen):
            form = _form(z, norm, down.module, before, known)
            if form is not None:
                found.append(form)
                break
    return found


def is_linear(module: nn.Module) -> bool:
    """`nn.Linear`, or GPT-2's transposed `Conv1D`."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def weight_of(module: nn.Module) -> Tensor:
    """(out, in), whichever way the layer stores it; shares memory."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight if isinstance(module, nn.Linear) else weight.T


def _form(
    z: Tensor, norm: bool, down: nn.Module, before: list[Seen], known: dict[str, Sigma]
) -> Form | None:
    behind = " behind a norm" if norm else ""
    for first in before:
        for part_words, part, rest in _parts(first.given, z.shape[-1]):
            a = part(first.given)
            if a.numel() != z.numel():
                continue
            for name, sigma in known.items():
                s = sigma(a).reshape(z.shape)
                ways: list[tuple[nn.Module | None, Tensor, str]] = [(None, s, f"{name}(a)")]
                if rest is not None:
                    b = rest(first.given).reshape(z.shape)
                    ways += [(None, s * b, f"{name}(a) * b{part_words}")]
                else:
                    for other in before:
                        if other is not first and other.given.numel() == z.numel():
                            b = other.given.reshape(z.shape)
                            ways.append((other.module, s * b, f"{name}(a) * b"))
                            ways.append((other.module, s * sigma(b), f"{name}(a) * {name}(b)"))
                for up, made, words in ways:
                    if _same(made, z):
                        plain = up is not None and not norm and words.endswith("* b")
                        return Form(
                            gate=first.module,
                            part=part,
                            up=up,
                            down=down,
                            sigma=sigma,
                            activation=name,
                            words=words + behind,
                            plain=plain,
                        )
    return None


def _parts(
    given: Tensor, d_f: int
) -> Iterator[tuple[str, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor] | None]]:
    """Ways to take a gate out of what a layer puts out, with the rest of it."""
    if given.shape[-1] == d_f:
        yield "", lambda x: x, None
    elif given.shape[-1] == 2 * d_f:
        yield ", fused as halves", lambda x: x[..., :d_f], lambda x: x[..., d_f:]
        yield ", fused as halves, b first", lambda x: x[..., d_f:], lambda x: x[..., :d_f]
        yield ", fused in turn", lambda x: x[..., ::2], lambda x: x[..., 1::2]


def _behind_norms(z: Tensor, seen: list[Seen]) -> Iterator[tuple[Tensor, bool]]:
    """z itself, and what went into a module that is no linear layer and put z out."""
    yield z, False
    for each in seen:
        norm = "norm" in type(each.module).__name__.lower()
        if norm and each.given.shape == z.shape and torch.equal(each.given, z):
            yield each.taken, True


def _same(made: Tensor, z: Tensor) -> bool:
    """Equal to rounding, and not by both being next to nothing."""
    largest = float(z.abs().max())
    apart = float((made - z).abs().max())
    return largest > 0 and apart <= CLOSE.get(z.dtype, ROUGH) * largest


def _ids(model: nn.Module) -> Tensor:
    """Token ids from all over the vocabulary, the same at every call."""
    rows = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    generator = torch.Generator().manual_seed(0)
    device = next(model.parameters()).device
    return torch.randint(rows, (1, TOKENS), generator=generator).to(device)
