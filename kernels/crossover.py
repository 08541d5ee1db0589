"""Where sparse products are faster than dense ones: measured, not tuned at run time.

Dense here: by the same packed W_out, by our product or torch's, whichever is faster. It takes torch
up to 15 % longer in float32, and several times as long in bfloat16 without instructions for it.

Measured with `python -m sparsing.kernels.measure_crossover`; every process with this table decides
alike. A device without a measured table computes densely.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from sparsing.kernels.cpu.build import compiled


@dataclass(frozen=True)
class Crossover:
    """What pays for up to this many tokens at once."""

    tokens: int
    products: bool
    """Our product of all rows with x is faster than torch's."""
    outputs: bool
    """So is ours of all neurons' outputs, W_out packed."""
    active: float
    """Largest active fraction, independent between tokens, at which leaving out pays."""


@dataclass(frozen=True)
class Decoding:
    """Where the Triton kernels for few tokens beat cuBLAS on a GPU, with all neurons active."""

    elements: int
    """Of a weight matrix, at least."""
    tokens: dict[torch.dtype, int]
    """At once, at most."""


@dataclass(frozen=True)
class Tiling:
    """Where the Triton kernels for many tokens beat cuBLAS on a GPU, forward and backward."""

    elements: int
    """Of a weight matrix, at least."""
    tokens: int
    """At once, at least."""
    listed: dict[torch.dtype, float]
    """Share of neurons that a tile's list holds, at most."""


SMALLEST = 2**20
"""Elements of a weight matrix from which on sparse products are considered at all."""
LARGE = 2**23
"""Elements from which on weights come from memory, not from a cache."""
ANY = 2**62

Table = dict[torch.dtype, tuple[Crossover, ...]]

# AMD EPYC of Zen 4, one thread; 768 x 1920 and 2304 x 5760. AVX2: its instructions limited to that.
AVX2_MEDIUM: Table = {
    torch.float32: (
        Crossover(2, True, True, 1.0),
        Crossover(4, True, True, 0.5),
        Crossover(8, True, False, 0.4),
        Crossover(16, True, False, 0.3),
        Crossover(64, True, False, 0.1),
    ),
    torch.bfloat16: (
        Crossover(1, False, True, 0.7),
        Crossover(4, True, True, 0.47),
        Crossover(16, True, True, 0.4),
        Crossover(64, True, True, 0.18),
        Crossover(ANY, True, True, 0.15),
    ),
}
AVX2_LARGE: Table = {
    torch.float32: (
        Crossover(1, True, False, 0.95),
        Crossover(2, True, True, 0.6),
        Crossover(4, True, True, 0.4),
        Crossover(8, True, False, 0.35),
        Crossover(16, True, False, 0.18),
        Crossover(64, True, False, 0.06),
    ),
    torch.bfloat16: (
        Crossover(1, False, True, 0.75),
        Crossover(2, False, True, 0.65),
        Crossover(4, True, True, 0.47),
        Crossover(16, True, True, 0.4),
        Crossover(64, True, True, 0.18),
        Crossover(ANY, True, True, 0.15),
    ),
}
AVX512_MEDIUM: Table = {
    torch.float32: (
        Crossover(2, True, True, 1.0),
        Crossover(4, True, True, 0.6),
        Crossover(8, True, True, 0.4),
        Crossover(16, True, True, 0.3),
        Crossover(64, False, False, 0.1),
    ),
    torch.bfloat16: (
        Crossover(1, True, True, 0.9),
        Crossover(2, False, True, 0.7),
        Crossover(4, False, True, 0.45),
        Crossover(8, False, False, 0.2),
        Crossover(16, False, False, 0.12),
    ),
}
AVX512_LARGE: Table = {
    torch.float32: (
        Crossover(1, True, True, 1.0),
        Crossover(2, True, True, 0.75),
        Crossover(4, True, True, 0.45),
        Crossover(8, True, True, 0.25),
        Crossover(16, True, True, 0.18),
        Crossover(64, True, False, 0.05),
    ),
    torch.bfloat16: (
        Crossover(1, True, True, 1.0),
        Crossover(2, True, True, 0.6),
        Crossover(4, False, True, 0.35),
        Crossover(8, False, False, 0.15),
        Crossover(16, False, False, 0.1),
    ),
}
COMPILED = {"AVX2": (AVX2_MEDIUM, AVX2_LARGE), "AVX512": (AVX512_MEDIUM, AVX512_LARGE)}
"""By what torch says a processor is capable of; others take AVX2's in float32, none in bfloat16."""
GATHERED: Table = {
    torch.float32: (Crossover(2, False, False, 0.12), Crossover(4, False, False, 0.06)),
}

# No GPU was measured yet: what `sparsing bench ffn` finds there with no weak neuron goes here.
DECODING: dict[str, Decoding] = {}
"""By the GPU's name, as `torch.cuda.get_device_name` says it."""
TILING: dict[str, Tiling] = {}
"""As `DECODING`."""


def on_triton(device: torch.device) -> bool:
    """Whether Triton computes there: on GPUs, and on processors where it interprets."""
    return device.type != "cpu" or os.environ.get("TRITON_INTERPRET") == "1"


def measured(device: torch.device) -> bool:
    """Whether a device has a table here; one without computes densely."""
    return device.type == "cpu" or (
        device.type == "cuda" and _gpu(device) in DECODING.keys() | TILING.keys()
    )


def tiles_may_pay(device: torch.device, dtype: torch.dtype, tokens: int, elements: int) -> bool:
    """Whether the Triton kernels for many tokens are worth looking at how much is listed."""
    found = _tiling(device)
    if found is None or dtype not in found.listed:
        return False
    return elements >= found.elements and tokens >= found.tokens


def tiles_pay(device: torch.device, dtype: torch.dtype, listed: float) -> bool:
    """Whether they are faster than cuBLAS where this share of the neurons is listed."""
    found = _tiling(device)
    return found is not None and listed <= found.listed.get(dtype, -1.0)


def _tiling(device: torch.device) -> Tiling | None:
    return TILING.get(_gpu(device)) if TILING and device.type == "cuda" else None


def decode_pays(device: torch.device, dtype: torch.dtype, tokens: int, elements: int) -> bool:
    """Whether the Triton kernels for few tokens are never slower than cuBLAS.

    Whatever the active fraction: to ask a GPU for it would take longer than it can save.
    """
    if not DECODING or device.type != "cuda":
        return False
    found = DECODING.get(_gpu(device))
    return found is not None and elements >= found.elements and tokens <= found.tokens.get(dtype, 0)


def may_pay(device: str, dtype: torch.dtype, tokens: int, elements: int) -> bool:
    """Whether leaving out weak neurons can pay for this number of tokens, if few enough are active.

    Args:
        device: type of the device.
        elements: of a weight matrix.
    """
    return _find(device, dtype, tokens, elements) is not None


def products_pay(device: str, dtype: torch.dtype, tokens: int, elements: int) -> bool:
    """Whether our product of all neurons with x beats torch's."""
    found = _find(device, dtype, tokens, elements)
    return found is not None and found.products


def outputs_pay(device: str, dtype: torch.dtype, tokens: int, elements: int) -> bool:
    """Whether our product of all neurons' outputs beats torch's, W_out packed."""
    found = _find(device, dtype, tokens, elements)
    return found is not None and found.outputs


def sparse_pays(device: str, dtype: torch.dtype, tokens: int, elements: int, active: float) -> bool:
    """Whether leaving out the weak neurons beats computing all, given the active fraction."""
    found = _find(device, dtype, tokens, elements)
    return found is not None and active <= found.active


def _find(device: str, dtype: torch.dtype, tokens: int, elements: int) -> Crossover | None:
    if device != "cpu" or elements < SMALLEST:
        return None
    capability = _capability()
    if dtype == torch.bfloat16 and capability not in COMPILED:
        return None
    if not _is_compiled():
        table = GATHERED
    else:
        table = COMPILED.get(capability, COMPILED["AVX2"])[elements >= LARGE]
    return next((row for row in table.get(dtype, ()) if tokens <= row.tokens), None)


# torch.compile asks once, and does not look into how a library is compiled.
@torch.compiler.assume_constant_result
def _is_compiled() -> bool:
    return compiled() is not None


@torch.compiler.assume_constant_result
def _gpu(device: torch.device) -> str:
    return torch.cuda.get_device_name(device)


@torch.compiler.assume_constant_result
def _capability() -> str:
    return torch.backends.cpu.get_cpu_capability()
