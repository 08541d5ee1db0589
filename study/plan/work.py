"""What one optimizer step asks of one shard: products, memory traffic, exchanged bytes, memory.

Counts, no speeds: those are of a device (`plan.rates`). For a micro batch of m sequences of T
tokens, k of them in a step, and P parameters of which V d_h are the tied embedding's.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

from sparsing.study.plan.runs import Run

EAGER_PASSES, COMPILED_PASSES = 128.0, 64.0
"""Elements that elementwise kernels read and write per token and layer, in units of d_h at
d_f = 2.5 d_h, forward and backward: counted operator by operator, each kernel alone or fused."""
EAGER_LOGIT_BYTES, COMPILED_LOGIT_BYTES = 30.0, 10.0
"""Read and written per logit: bf16 logits, their float32 copy, softmax and its gradient; fused."""
SAVED_PER_LAYER = (10.0, 4.0)
"""Activations that the backward needs, per token and layer: in units of d_h and of d_f."""
LOGIT_MEMORY_BYTES = {2: 14.0, 4: 12.0}
"""Held per logit at the peak: logits, float32 copy, log-softmax, gradient; by bytes of a weight."""
CHUNK_TOKENS = 1024
"""Tokens whose logits exist at a time where the cross entropy is chunked."""
ADAM_BYTES = 28.0
"""Read and written per parameter: weight, gradient, two moments; all but the gradient back."""


@dataclass(frozen=True, kw_only=True)
class StepWork:
    """Of one shard in one optimizer step."""

    matmul_flops: float
    """Of the layers' matrices and the output head, forward and backward."""
    attention_flops: float
    """Of causal scores and mixing, forward and backward."""
    elementwise_bytes: float
    """Read and written by norms, rotary positions, activations, residuals and the loss."""
    optimizer_bytes: float
    layer_calls: float
    """Layers times micro batches."""
    steps: float = 1.0
    exchanged_bytes: float = 0.0
    """Sent by a shard: gradients reduced, weights gathered."""

    @property
    def model_flops(self) -> float:
        """What MFU counts."""
        return self.matmul_flops + self.attention_flops

    def measured_terms(self) -> tuple[float, ...]:
        """The terms that a calibration finds rates for: all but what is exchanged."""
        return astuple(self)[:-1]


def step_work(
    run: Run, vocabulary: int, *, shards: int, micro: int, weight_bytes: int, compiled: bool = False
) -> StepWork:
    """The work of one of `shards` in a step, in micro batches of `micro` sequences.

    weight_bytes: 2 for bf16 with float32 masters (ZeRO 1), 4 for float32 (ZeRO 0).
    """
    sequences = run.batch_sequences / shards
    tokens = sequences * run.sequence_tokens
    head = vocabulary * run.d_h
    parameters = run.parameters + head
    passes = COMPILED_PASSES if compiled else EAGER_PASSES
    per_layer = passes * (run.d_h + run.d_f) / 3.5
    logit_bytes = (COMPILED_LOGIT_BYTES if compiled else EAGER_LOGIT_BYTES) * weight_bytes / 2
    elementwise = tokens * (run.layers * per_layer * weight_bytes + vocabulary * logit_bytes)
    owned = parameters / shards if weight_bytes == 2 else parameters
    micro_steps = sequences / micro
    accumulated = 10.0 * parameters * micro_steps
    return StepWork(
        matmul_flops=6.0 * parameters * tokens,
        attention_flops=6.0 * run.layers * run.d_h * run.sequence_tokens * tokens,
        elementwise_bytes=elementwise,
        optimizer_bytes=ADAM_BYTES * owned + accumulated,
        layer_calls=run.layers * micro_steps,
        exchanged_bytes=2.0 * weight_bytes * parameters * (shards - 1) / shards,
    )


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one shard at its peak."""

    weights: float
    gradients: float
    optimizer: float
    """float32 master weights and Adam's moments, of which ZeRO 1 gives each shard its part."""
    activations: float
    logits: float
    process: float
    """What is there without a model: CUDA's context and its caches, or Python with torch."""

    @property
    def total(self) -> float:
        """The sum of the parts."""
        return sum(astuple(self))


def memory_of(
    run: Run,
    vocabulary: int,
    *,
    shards: int,
    micro: int,
    weight_bytes: int,
    process_bytes: float,
    chunked: bool = False,
) -> Memory:
    """Memory of one shard; `chunked`: logits exist for CHUNK_TOKENS at a time."""
    parameters = run.parameters + vocabulary * run.d_h
    tokens = micro * run.sequence_tokens
    of_d_h, of_d_f = SAVED_PER_LAYER
    saved = run.layers * (of_d_h * run.d_h + of_d_f * run.d_f)
    loss_tokens = min(tokens, CHUNK_TOKENS) if chunked else tokens
    owned = 12.0 * parameters / shards if weight_bytes == 2 else 8.0 * parameters
    return Memory(
        weights=float(weight_bytes * parameters),
        gradients=4.0 * parameters,
        optimizer=owned,
        activations=tokens * saved * weight_bytes,
        logits=loss_tokens * vocabulary * LOGIT_MEMORY_BYTES[weight_bytes],
        process=process_bytes,
    )
