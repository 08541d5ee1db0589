"""Model shapes: the scales of the paper's Table 3, and a solver for any other parameter count.

A scale is a non-embedding parameter count; its shape is a hidden size, a number of layers, an
intermediate size of 2.5 d_h and attention heads of 64. The table's counts and batches are the
paper's; its shapes are the ones that meet them within 1 % at width-depth ratios of 48 to 58.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from sparsing.study.definition.model import Shape
from sparsing.study.definition.values import parse_count
from sparsing.study.errors import DefinitionError

HEAD_SIZE = 64
PARAMETER_TOLERANCE = 0.01
"""A solved shape's parameter count differs by at most this share from the one asked for."""
RATIO_TOLERANCE = 0.1
"""A solved shape's width-depth ratio differs by at most this share from the one asked for."""
DEFAULT_RATIO_TOLERANCE = 2.0
DEFAULT_RATIO = 52.0
"""Middle of the paper's main runs (48 to 56)."""
MAX_LAYERS = 1000
MIN_D_H = 8
MULTIPLES_ONLY_FROM = 6400
"""From this width on, 1 % of the parameters is more than one step of 64 in d_h."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """What of a model is decided before training."""

    d_h: int
    layers: int
    d_f: int
    heads: int

    @property
    def parameters(self) -> int:
        """Non-embedding parameters."""
        return nonembedding_parameters(self.d_h, self.layers, self.d_f)

    @property
    def width_depth_ratio(self) -> float:
        """d_h / layers."""
        return self.d_h / self.layers


@dataclass(frozen=True)
class NamedScale:
    """A row of the paper's Table 3, with the shape that meets it."""

    d_h: int
    layers: int
    parameters: float
    """As printed in Table 3."""
    batch_tokens: int
    """Table 3's batch, in whole sequences of 4096 tokens."""


NAMED_SCALES = {
    "0.1B": NamedScale(768, 16, 1.08e8, 80 * 4096),
    "0.2B": NamedScale(1024, 20, 2.41e8, 144 * 4096),
    "0.4B": NamedScale(1280, 24, 4.52e8, 192 * 4096),
    "0.8B": NamedScale(1536, 28, 7.60e8, 288 * 4096),
    "1.2B": NamedScale(1792, 32, 1.18e9, 384 * 4096),
    "2.4B": NamedScale(2304, 40, 2.44e9, 512 * 4096),
}


def nonembedding_parameters(d_h: int, layers: int, d_f: int) -> int:
    """Parameters without the tied embedding.

    Per layer 4 d_h² for attention, 3 d_h d_f for the gated FFN and 2 d_h for the norms; then
    d_h for the final norm.
    """
    return layers * (4 * d_h**2 + 3 * d_h * d_f + 2 * d_h) + d_h


def default_d_f(d_h: int) -> int:
    """Intermediate size: 2.5 d_h, rounded (half up)."""
    return (5 * d_h + 1) // 2


def default_heads(d_h: int) -> int:
    """Heads whose size is even (RoPE turns pairs) and as near to 64 as d_h allows."""
    sizes = [d_h // heads for heads in _divisors(d_h) if d_h // heads % 2 == 0]
    if not sizes:
        raise DefinitionError(
            f"d_h = {d_h} has no even head size, which RoPE needs: give an even d_h",
            code="odd_width",
            d_h=d_h,
        )
    return d_h // min(sizes, key=lambda size: (_octaves(size, HEAD_SIZE), -size))


@functools.cache
def model_shape(scale: str | Shape, width_depth_ratio: float | None = None) -> ModelShape:
    """The shape of a named scale, of any other parameter count, or of an explicit shape.

    Raises DefinitionError where heads do not fit d_h, or no shape fits count and ratio.
    """
    if isinstance(scale, Shape):
        return _explicit_shape(scale)
    named = NAMED_SCALES.get(scale)
    if named and width_depth_ratio is None:
        return _with_defaults(named.d_h, named.layers)
    return solve_shape(named.parameters if named else parse_count(scale), width_depth_ratio)


def solve_shape(parameters: float, width_depth_ratio: float | None = None) -> ModelShape:
    """The shape within 1 % of `parameters` whose ratio is nearest, heads preferably of 64.

    A head size twice or half of 64 counts like a ratio that is off by 10 %. A ratio that was
    asked for is met within 10 %, the default of 52 within a factor of 2.
    """
    asked = width_depth_ratio or DEFAULT_RATIO
    tolerance = 1 + RATIO_TOLERANCE if width_depth_ratio else DEFAULT_RATIO_TOLERANCE
    candidates = list(_candidates(parameters, asked, tolerance))
    if not candidates:
        raise DefinitionError(_no_shape(parameters, width_depth_ratio), code="no_shape")
    return min(candidates, key=lambda shape: _cost(shape, asked))


def shape_label(shape: Shape) -> str:
    """`d32x4`; `d32x4f64` where d_f is not the default."""
    label = f"d{shape.d_h}x{shape.layers}"
    return label if shape.d_f in (None, default_d_f(shape.d_h)) else f"{label}f{shape.d_f}"


def scale_label(scale: str | Shape) -> str:
    """A scale as it is called in run ids and in `batch_tokens`."""
    return scale if isinstance(scale, str) else shape_label(scale)


def default_batch_sequences(scale: str | Shape, parameters: int, sequence_tokens: int) -> int:
    """Sequences of the global batch: Table 3, and log-log between and beyond its rows.

    Rounded to a multiple of the power of two next to an eighth of it, so that the usual numbers
    of shards divide it without having a say in it: the batch is part of what is studied, the
    shards are not.
    """
    named = NAMED_SCALES.get(scale) if isinstance(scale, str) else None
    tokens = named.batch_tokens if named else _interpolated_batch_tokens(parameters)
    sequences = max(1.0, tokens / sequence_tokens)
    granule = 2 ** max(0, math.floor(math.log2(sequences / 8)))
    return granule * round(sequences / granule)


def _interpolated_batch_tokens(parameters: int) -> float:
    rows = list(NAMED_SCALES.values())
    right = next((i for i, row in enumerate(rows) if row.parameters > parameters), len(rows) - 1)
    low, high = rows[max(right, 1) - 1], rows[max(right, 1)]
    slope = math.log(high.batch_tokens / low.batch_tokens) / math.log(
        high.parameters / low.parameters
    )
    return low.batch_tokens * (parameters / low.parameters) ** slope


def _explicit_shape(shape: Shape) -> ModelShape:
    heads = shape.heads or default_heads(shape.d_h)
    if shape.d_h % heads or shape.d_h // heads % 2:
        raise DefinitionError(
            f"heads = {heads} does not divide d_h = {shape.d_h} into heads of even size "
            f"(RoPE turns pairs): {allowed_heads(shape.d_h)}",
            code="wrong_heads",
            d_h=shape.d_h,
            heads=heads,
        )
    d_f = shape.d_f or default_d_f(shape.d_h)
    return ModelShape(d_h=shape.d_h, layers=shape.layers, d_f=d_f, heads=heads)


def allowed_heads(d_h: int) -> str:
    """Which numbers of heads d_h allows, for a message."""
    allowed = [heads for heads in _divisors(d_h) if d_h // heads % 2 == 0]
    if not allowed:
        return "none is possible, d_h must be even"
    return f"allowed for {d_h}: " + ", ".join(map(str, allowed))


def _with_defaults(d_h: int, layers: int) -> ModelShape:
    return ModelShape(d_h=d_h, layers=layers, d_f=default_d_f(d_h), heads=default_heads(d_h))


def _candidates(parameters: float, ratio: float, tolerance: float) -> Iterator[ModelShape]:
    """Shapes within the tolerances; wide ones only in multiples of 64, of which some always fit."""
    for layers in range(1, MAX_LAYERS + 1 if parameters >= 1 else 0):
        middle = math.sqrt(parameters / (11.5 * layers))
        if abs(math.log(middle / layers / ratio)) > math.log(tolerance * (1 + PARAMETER_TOLERANCE)):
            continue
        step = 2 if middle < MULTIPLES_ONLY_FROM else HEAD_SIZE
        low, high = middle / (1 + PARAMETER_TOLERANCE), middle * (1 + PARAMETER_TOLERANCE)
        for d_h in range(step * math.ceil(max(low, MIN_D_H) / step), int(high) + 1, step):
            off = abs(math.log(d_h / layers / ratio))
            count = nonembedding_parameters(d_h, layers, default_d_f(d_h))
            enough = abs(count / parameters - 1) <= PARAMETER_TOLERANCE
            if enough and off <= math.log(tolerance):
                yield _with_defaults(d_h, layers)


def _cost(shape: ModelShape, ratio: float) -> float:
    off_ratio = abs(math.log(shape.width_depth_ratio / ratio))
    return off_ratio + math.log(1.1) * _octaves(shape.d_h // shape.heads, HEAD_SIZE)


def _no_shape(parameters: float, ratio: float | None) -> str:
    message = f"no model of whole layers has {parameters:.3g} parameters within 1 %"
    if ratio is None:
        wish = f"{message} and a width-depth ratio of {DEFAULT_RATIO:g} within a factor of 2"
        return f"{wish}: give a ratio, another count, or an explicit shape such as d_h 32, layers 4"
    ratios = [s.width_depth_ratio for s in _candidates(parameters, ratio, math.inf)]
    ratios.sort(key=lambda found: abs(math.log(found / ratio)))
    nearest = list(dict.fromkeys(f"{found:.3g}" for found in ratios))[:4]
    possible = ", ".join(sorted(nearest, key=float))
    hint = f"possible ratios near it: {possible}" if nearest else "give an explicit shape"
    return f"{message} and a width-depth ratio within 10 % of {ratio:g}: {hint}"


def _divisors(number: int) -> list[int]:
    small = [i for i in range(1, math.isqrt(number) + 1) if number % i == 0]
    return sorted({*small, *(number // i for i in small)})


def _octaves(a: float, b: float) -> float:
    return abs(math.log2(a / b))
