"""`sparsing bench ffn`: the sparse FFN against torch's dense one, by the same weights.

The gate is a ReLU shifted so far that a stated share of neurons is weak, other ones for each token:
the worst case, since each neuron's weights are read for fewer tokens. Layers are taken in turn, so
that weights come from memory, as in a model. In brackets: the bound 3 / (1 + 2a) on what leaving
out neurons can save when reading weights takes all the time, a being the active fraction; torch's
products of few tokens take longer than that, so that ratios can lie above it.

Processors: one thread, its processor time, so that others on the machine matter less. GPUs: the
Triton kernels, timed by events on the device, where there is one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsing.kernels.ffn import GatedFFN
from sparsing.study.bench.bench import Case, compare

SHAPES = {"2.4B": (2304, 5760), "0.1B": (768, 1920)}
TOKENS = [1, 2, 4, 8]
WEAK = [0.0, 0.5, 0.9, 0.95, 0.97]
LAYERS = 3
BLOCK_SECONDS = 0.05
TRAINED_TOKENS = 4096
TRAINED_WEAK = [0.9, 0.97, 0.99]


def cases(repeats: int) -> list[Case]:
    """Every shape, number of tokens and share of weak neurons; and neurons that are given."""
    found = []
    with torch.no_grad():
        for name, (d_h, d_f) in SHAPES.items():
            for tokens in TOKENS:
                for weak in WEAK:
                    found += processor_cases(name, Layers(d_h, d_f, tokens, weak), repeats)
        if torch.cuda.is_available():
            found += [case for shape in SHAPES for case in gpu_cases(shape, repeats)]
            found += [case for shape in SHAPES for case in gpu_training_cases(shape, repeats)]
    return found


class Layers:
    """FFNs of one shape, dense and sparse, and tokens for them."""

    def __init__(self, d_h: int, d_f: int, tokens: int, weak: float, **options: Any) -> None:
        self.tokens, self.weak = tokens, weak
        self.x = torch.randn(tokens, d_h, **options)
        # Gates are normal with this standard deviation; the shift is their quantile.
        deviation = float(self.x.float().square().mean().sqrt())
        uniform = torch.tensor(min(max(weak, 1e-6), 1 - 1e-6))
        self.shift = deviation * float(torch.special.ndtri(uniform)) if weak else -1e9
        self.dense = [self._layer(d_h, d_f, options) for _ in range(LAYERS)]
        self.sparse = [GatedFFN.of(f.w_gate, f.w_in, _copy(f.w_out), f.sigma) for f in self.dense]
        for ffn in self.sparse:
            ffn.use_exact()

    def _layer(self, d_h: int, d_f: int, options: dict[str, Any]) -> GatedFFN:
        def linear(inputs: int, outputs: int) -> nn.Linear:
            layer = nn.Linear(inputs, outputs, bias=False, **options)
            layer.weight.normal_(std=inputs**-0.5)
            return layer

        return GatedFFN.of(linear(d_h, d_f), linear(d_h, d_f), linear(d_f, d_h), self.sigma)

    def sigma(self, gate: Tensor) -> Tensor:
        """ReLU behind the shift."""
        return functional.relu(gate - self.shift)

    def active_neurons(self, layer: int) -> Tensor:
        """Neurons that any of the tokens activates, as a list."""
        ffn = self.dense[layer]
        return (ffn.sigma(ffn.w_gate(self.x)) != 0).any(0).nonzero().squeeze(1)


def processor_cases(name: str, layers: Layers, repeats: int) -> list[Case]:
    """Exact against dense; for one token also a given list of its active neurons."""
    torch.set_num_threads(1)
    x, bound = layers.x, 3 / (1 + 2 * (1 - layers.weak))
    what = f"{name}, {layers.tokens} token(s), {layers.weak:.0%} weak"
    dense = block(lambda i: layers.dense[i](x))
    against = partial(
        compare, unit="ms", better="lower", repeats=repeats, baseline_name="torch, dense"
    )
    exact = block(lambda i: layers.sparse[i](x))
    found = [against(f"exact, {what} ({bound:.2f}x)", exact, dense)]
    if layers.tokens == 1 and layers.weak:
        lists = [layers.active_neurons(i) for i in range(LAYERS)]
        given = block(lambda i: layers.sparse[i](x, lists[i]))
        found.append(against(f"given, {what} ({1 / (1 - layers.weak):.2f}x)", given, dense))
    return found


def block(call: Callable[[int], object]) -> Callable[[], float]:
    """Milliseconds of processor time a call takes, over calls that take `BLOCK_SECONDS`."""

    def measured() -> float:
        started, calls = time.process_time(), 0
        while calls < LAYERS or time.process_time() - started < BLOCK_SECONDS:
            call(calls % LAYERS)
            calls += 1
        return (time.process_time() - started) / calls * 1e3

    return measured


def gpu_cases(name: str, repeats: int) -> list[Case]:
    """The Triton decode kernels against cuBLAS, in bfloat16."""
    from sparsing.kernels.ops import decode_output, packed

    d_h, d_f = SHAPES[name]
    found = []
    for tokens in TOKENS:
        for weak in WEAK:
            layers = Layers(d_h, d_f, tokens, weak, device="cuda", dtype=torch.bfloat16)
            ffn = layers.dense[0]
            # The kernels know ReLU without a shift: weak are the neurons whose rows are negative.
            x = layers.x.abs()
            signs = torch.where(torch.rand(d_f, 1, device="cuda") < weak, -1, 1)
            w_gate = (ffn.w_gate.weight.abs() * signs).contiguous()
            plain = GatedFFN.of(_holding(w_gate), ffn.w_in, ffn.w_out, functional.relu)
            arguments = (x, w_gate, ffn.w_in.weight, packed(ffn.w_out.weight), "relu")
            sparse, dense = partial(decode_output, *arguments), partial(plain, x)
            case = f"decode, GPU, {name}, {tokens} tokens, {weak:.0%} weak"
            found.append(_gpu_case(case, sparse, dense, repeats))
    return found


def gpu_training_cases(name: str, repeats: int) -> list[Case]:
    """Forward and backward by the tile kernels against cuBLAS, in bfloat16; ReLU, weak at random.

    The kernels are taken whatever `kernels.crossover` says, so that its table can be found.
    """
    from sparsing.kernels import crossover

    d_h, d_f = SHAPES[name]
    device = torch.cuda.get_device_name()
    taken = {device: crossover.Tiling(0, 0, {torch.bfloat16: 1.0})}
    found = []
    for weak in TRAINED_WEAK:
        layers = Layers(d_h, d_f, TRAINED_TOKENS, weak, device="cuda", dtype=torch.bfloat16)
        sparse, dense = (
            partial(_trained, ffn.requires_grad_(), layers.x)
            for ffn in (layers.sparse[0], layers.dense[0])
        )
        case = f"training, GPU, {name}, {TRAINED_TOKENS} tokens, {weak:.0%} weak"
        with mock.patch.object(crossover, "TILING", taken):
            found.append(_gpu_case(case, sparse, dense, repeats))
    return found


def _gpu_case(
    case: str, sparse: Callable[[], object], dense: Callable[[], object], repeats: int
) -> Case:
    from triton.testing import do_bench

    return compare(
        case,
        partial(do_bench, sparse),
        partial(do_bench, dense),
        baseline_name="cuBLAS, dense",
        unit="ms",
        better="lower",
        repeats=repeats,
    )


@torch.enable_grad()
def _trained(ffn: GatedFFN, x: Tensor) -> None:
    """A forward and a backward, with derivatives by x and the weights."""
    x = x.detach().requires_grad_()
    y = ffn(x)
    torch.autograd.grad(y, [x, *ffn.parameters()], torch.ones_like(y))


def _holding(weight: Tensor) -> nn.Linear:
    outputs, inputs = weight.shape
    layer = nn.Linear(inputs, outputs, bias=False, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer


def _copy(layer: nn.Linear) -> nn.Linear:
    return _holding(layer.weight.detach().clone())
