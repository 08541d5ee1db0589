"""`python -m sparsing.kernels.measure_crossover`: measures and prints the table of `crossover`.

For each number of tokens, in processor time of one thread, interleaved: our products with all
neurons, in and out, against torch's; leaving out against computing all after the gate, by the
faster of both, at falling active fractions, independent between tokens (the worst case for reading
weights once); and computing all against torch, W_out as torch likes it best.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from sparsing.kernels.cpu import ffn as cpu_ffn
from sparsing.kernels.cpu.build import compiled
from sparsing.kernels.ops import packed

SHAPES = [(768, 1920), (2304, 5760)]
"""d_h and d_f: a 0.1B and a 2.4B model's; within the third cache, and beyond it."""
TOKENS = [1, 2, 4, 8, 16, 64, 256]
ACTIVE = [1.0, 0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05]
LAYERS = 3
"""Taken in turn, so that weights come from memory as they do in a model."""


def ratio(ours: Callable[[int], object], theirs: Callable[[int], object], repeats: int) -> float:
    """Median of their processor time over ours; each finds a layer that two others came after."""
    ratios = []
    for repeat in range(repeats + 1):
        started = time.process_time()
        ours(repeat % LAYERS)
        middle = time.process_time()
        theirs((repeat + 2) % LAYERS)
        ratios.append((time.process_time() - middle) / (middle - started))
    return statistics.median(ratios[1:])


def measure(dtype: torch.dtype, d_h: int, d_f: int, tokens: int, repeats: int) -> None:
    """Print the ratios of one shape and number of tokens."""
    w_in = [torch.randn(d_f, d_h, dtype=dtype) for _ in range(LAYERS)]
    plain = [torch.randn(d_h, d_f, dtype=dtype) for _ in range(LAYERS)]
    w_out = [packed(w) for w in plain]
    x = torch.randn(tokens, d_h, dtype=dtype)

    def sparse(layer: int, gate: Tensor) -> Tensor:
        z = cpu_ffn.neuron_products(x, w_in[layer], None, gate, None)
        return cpu_ffn.neuron_outputs(z, w_out[layer], None)

    def dense(layer: int, gate: Tensor) -> Tensor:
        return functional.linear(gate * functional.linear(x, w_in[layer]), plain[layer])

    def faster_dense(layer: int, gate: Tensor) -> Tensor:
        z = gate * (
            cpu_ffn.neuron_products(x, w_in[layer], None, None, None)
            if products > 1
            else functional.linear(x, w_in[layer])
        )
        if outputs > 1:
            return cpu_ffn.neuron_outputs(z, w_out[layer], None, every=True)
        return functional.linear(z, w_out[layer])

    products = ratio(
        lambda i: cpu_ffn.neuron_products(x, w_in[i], None, None, None),
        lambda i: functional.linear(x, w_in[i]),
        repeats,
    )
    z = torch.randn(tokens, d_f, dtype=dtype)
    outputs = ratio(
        lambda i: cpu_ffn.neuron_outputs(z, w_out[i], None, every=True),
        lambda i: functional.linear(z, w_out[i]),
        repeats,
    )
    line = [f"{dtype} {d_h}x{d_f} {tokens:4d} tokens: in {products:.2f}, out {outputs:.2f}"]
    for active in ACTIVE:
        gate = torch.randn(tokens, d_f, dtype=dtype) * (torch.rand(tokens, d_f) < active)
        gained = ratio(lambda i: sparse(i, gate), lambda i: faster_dense(i, gate), repeats)  # noqa: B023
        line.append(f"{active:g}: {gained:.2f}")
    full = ratio(lambda i: faster_dense(i, gate), lambda i: dense(i, gate), repeats)
    print(", ".join([*line, f"all {full:.2f}"]), flush=True)


def main() -> None:
    """Measure and print all."""
    torch.set_num_threads(1)
    how = "compiled" if compiled() else "gathered"
    print(f"{how}, torch with {torch.backends.cpu.get_cpu_capability()}")
    for dtype in cpu_ffn.DTYPES:
        for d_h, d_f in SHAPES:
            for tokens in TOKENS:
                measure(dtype, d_h, d_f, tokens, repeats=9 if tokens * d_h > 20000 else 45)


if __name__ == "__main__":
    with torch.no_grad():
        main()
