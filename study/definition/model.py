"""The study definition: one pydantic model, with the paper's settings as defaults.

A definition says what is studied; `study.plan.runs` turns it into runs. Each field's unit is in its
name, each default follows the paper (section 3) unless its comment says otherwise. Counts may be
written as people say them: `27M`, `1.5B`, `8e11`.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Strict, Tag, model_validator

from sparsing.study.definition.data import Data
from sparsing.study.definition.values import (
    Activation,
    Beta,
    Count,
    Duration,
    Model,
    Name,
    Ratio,
    ScaleName,
    number_or_structure,
    problem,
    text_or_structure,
)


class Shape(Model):
    """An explicit model shape, where a named scale does not fit."""

    d_h: Count = Field(ge=2, le=2**20)
    """Hidden size; even, for the rotary position embedding turns pairs."""
    layers: Count = Field(ge=1, le=10_000)
    """Transformer layers."""
    d_f: Count | None = Field(default=None, ge=1, le=2**22)
    """Intermediate size of the gated FFN; default 2.5 d_h, rounded."""
    heads: Count | None = Field(default=None, ge=1, le=2**20)
    """Attention heads, each with its own key and value; default: head size near 64."""


Scale = Annotated[
    Annotated[ScaleName, Tag("text")] | Annotated[Shape, Tag("structure")],
    Discriminator(text_or_structure),
]


class Axes(Model):
    """The study's axes; the runs are their product."""

    activation: list[Activation] = Field(default=["relu"], min_length=1)
    """Activation functions of the gated FFN."""
    scale: list[Scale] = Field(min_length=1)
    """Named scales of the paper's Table 3 (`0.1B` ... `2.4B`), any other non-embedding parameter
    count (`27M`), or explicit shapes."""
    width_depth_ratio: list[Ratio] | None = Field(default=None, min_length=1)
    """d_h / layers; default: the named scale's own, 52 for other counts. Not with shapes."""
    seed: list[Annotated[int, Field(ge=0, lt=2**31)]] = Field(default=[0], min_length=1)
    """Seeds of weights and data order."""


class RunPoint(Model):
    """One run, written out: a point of the axes."""

    activation: Activation = "relu"
    """Activation function of the gated FFN."""
    scale: Scale
    """As in the axes: a named scale, a parameter count or an explicit shape."""
    width_depth_ratio: Ratio | None = None
    """As in the axes."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of weights and data order."""


BatchTokens = Annotated[
    Annotated[Annotated[Count, Field(ge=1)], Tag("number")]
    | Annotated[dict[str, Annotated[Count, Field(ge=1)]], Tag("structure")],
    Discriminator(number_or_structure),
]


class Optimization(Model):
    """muP, AdamW and WSD, as in the paper (section 3)."""

    peak_learning_rate: float = Field(default=0.01, gt=0, le=1000)
    """Learning rate of the stable stage, at width `mup.dim_model_base`."""
    betas: Annotated[tuple[Beta, Beta], Strict(False)] = (0.9, 0.95)
    """AdamW's decay rates of the first and second moment."""
    epsilon: float = Field(default=1e-8, gt=0, le=1)
    """AdamW's epsilon."""
    weight_decay: float = Field(default=0.1, ge=0, le=1000)
    """AdamW's decoupled weight decay."""
    gradient_clip: float = Field(default=1.0, gt=0, le=1e9)
    """Global gradient norm above which gradients are scaled down."""
    warmup_tokens: Count | None = Field(default=None, ge=0)
    """WSD warm-up; default 1 % of the run's tokens. Points inside it are not fitted."""
    decay_tokens: Count = Field(default=0, ge=0)
    """WSD decay at the end; the paper's sparsity curves end before it."""
    batch_tokens: BatchTokens | None = None
    """Global batch: one number, or one per scale as written in the axes; default: the paper's
    per scale, between and beyond them interpolated in log-log."""
    micro_batch_sequences: Count = Field(default=8, ge=1)
    """Sequences per shard and forward at most; the rest is gradient accumulation."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """`auto`: bf16 on GPUs that have it, float32 elsewhere."""
    zero_stage: Literal["auto", 0, 1, 2, 3] = "auto"
    """`auto`: 1 on GPUs, 0 on CPUs (where sharding costs more than it saves)."""


class Stability(Model):
    """What happens when training is not stable: the run goes back to its newest checkpoint, and
    trains on another batch in the place of the one to blame. The store remembers which, so that a
    restart takes the same way."""

    not_finite: Literal["replace", "fail"] = "replace"
    """When loss or gradient norm is NaN or infinite. One bad batch passes; a run that diverges
    meets the next soon, and is failed."""
    spike_factor: float | None = Field(default=None, gt=1, le=1e9)
    """A loss above this multiple of the median of the last 50 steps is a spike, and treated alike.
    Default: spikes are left as they are, for they are part of the curve."""
    max_replaced: Count = Field(default=3, ge=1, le=10_000)
    """Batches replaced between two checkpoints; a run that needs more is failed."""


class MuP(Model):
    """Scalings of the muP Transformer in the MiniCPM manner (paper section 3)."""

    scale_emb: float = Field(default=12.0, gt=0, le=1e6)
    """Factor on the embeddings."""
    scale_depth: float = Field(default=1.4, gt=0, le=1e6)
    """Residual branches are scaled by this / sqrt(layers)."""
    dim_model_base: Count = Field(default=256, ge=1, le=2**20)
    """Width at which every muP factor is 1."""
    init_std: float = Field(default=0.1, gt=0, le=100)
    """Standard deviation of initial weights, at width `dim_model_base`."""


class Checkpoints(Model):
    """When a run saves a checkpoint, and so when its sparsity is measured."""

    count: Count = Field(default=20, ge=1, le=10_000)
    """How many, the last one at the run's end."""
    spacing: Literal["linear", "log"] = "linear"
    """Equal steps, or equal ratios, between the first and the last."""
    first_tokens: Count | None = Field(default=None, ge=1)
    """First checkpoint; default: the run's tokens / count."""
    tokens: list[Annotated[Count, Field(ge=1)]] | None = Field(
        default=None, min_length=1, max_length=10_000
    )
    """The token counts themselves; replaces count, spacing and first_tokens. The run's end is
    always a checkpoint."""
    recover_every: Duration = 1800.0
    """Seconds, or as `30m`: after this time without a checkpoint a recovery point is saved, from
    which a run goes on after a failure. The newest two are kept, none is measured. No part of the
    study's id."""


class Measurement(Model):
    """How sparsity is measured: CETT-PPL-p% by Algorithm 1, stabilized (Appendix E)."""

    p_percent: float = Field(default=1.0, gt=0, le=100)
    """Rise of validation perplexity at which the activation ratio is read."""
    stabilizing_checkpoints: Count = Field(default=5, ge=1)
    """The run's CETT value is searched on this many last pre-decay checkpoints together."""
    pareto: bool = True
    """Measure, once per run, perplexity against activation ratio for every way of choosing weak
    neurons: about 30 forwards of half the validation set. No part of the study's id."""


class Resources(Model):
    """What a run occupies on the Ray cluster."""

    shards: Count = Field(default=1, ge=1, le=100_000)
    """World size of each run: shards of its gang."""
    min_shards: Count | None = Field(default=None, ge=1, le=100_000)
    """Where the cluster has no room for `shards`, a run goes on with fewer, at least this many, and
    grows again at a checkpoint; the global batch stays. Default: it waits for all."""
    gpus_per_shard: float | None = Field(default=None, ge=0, le=1024)
    """Default: 1 where the cluster has GPUs, else 0."""
    cpus_per_shard: float = Field(default=1.0, gt=0, le=10_000)
    """CPUs that Ray reserves for each shard."""
    accelerator_type: str | None = None
    """As Ray names it, for example `A100` or `A800`."""
    placement: Literal["PACK", "STRICT_PACK", "SPREAD", "STRICT_SPREAD"] = "PACK"
    """How Ray places a run's shards on nodes."""
    parallel_runs: Count | None = Field(default=None, ge=1)
    """Most runs at once; default: as many as fit."""
    max_gpus: float | None = Field(default=None, gt=0, le=1_000_000)
    """Most GPUs to train on at once, all runs together; default: all."""
    order: Literal["biggest_first", "as_defined"] = "biggest_first"
    """Which run starts first: the one of most FLOPs, so that the last ones to end are short, or
    the first of the definition."""
    measurers: Count = Field(default=1, ge=1, le=10_000)
    """Measurer actors beside the training."""
    threads_per_shard: Count = Field(default=1, ge=1, le=10_000)
    """CPU threads of a shard; two one-thread runs side by side beat one two-thread run."""
    keep_checkpoints: Literal["all", "last"] = "all"
    """`last`: once a run is measured, only those stay that its CETT value was searched on
    (`measurement.stabilizing_checkpoints`), and the newest; as `sparsing store prune` does."""
    hang_seconds: float = Field(default=60.0, gt=0, le=1e6)
    """A run is restarted when no step finishes within this and 20 median steps."""

    @model_validator(mode="after")
    def _fewest_of_all(self) -> Resources:
        if self.min_shards is not None and self.min_shards > self.shards:
            raise problem(
                f"min_shards = {self.min_shards} is more than shards = {self.shards}",
                "min_shards",
                "shards",
            )
        return self


LawName = Literal["relu", "silu"]
Laws = Annotated[
    Annotated[Literal["auto"], Tag("text")]
    | Annotated[Annotated[list[LawName], Field(min_length=1)], Tag("structure")],
    Discriminator(text_or_structure),
]


class Study(Model):
    """A study definition."""

    name: Name
    """Lower case, digits, `-` and `_`; part of the study's id."""
    description: str = ""
    """For people."""
    axes: Axes | None = None
    """The runs are the product of the axes."""
    runs: list[RunPoint] = Field(default=[])
    """Runs besides, or instead of, the product of the axes."""
    tokens: Count | None = Field(default=None, ge=1)
    """Training tokens of each run."""
    tokens_per_parameter: float | None = Field(default=None, gt=0, le=1e9)
    """Training tokens per non-embedding parameter, instead of `tokens`."""
    data: Data
    """What is trained on."""
    optimization: Optimization = Optimization()
    """How it is trained."""
    stability: Stability = Stability()
    """What happens when the loss is not finite, or spikes."""
    mup: MuP = MuP()
    """Scalings of the muP Transformer."""
    checkpoints: Checkpoints = Checkpoints()
    """When checkpoints are saved and measured."""
    measurement: Measurement = Measurement()
    """How sparsity is measured."""
    laws: Laws = "auto"
    """Laws fitted to each run; `auto`: the paper's form for the run's activation."""
    resources: Resources = Resources()
    """What a run occupies on the cluster; no part of the study's id."""

    @model_validator(mode="after")
    def _one_of(self) -> Study:
        if self.axes is None and not self.runs:
            raise problem("a study needs the key 'axes' or 'runs'", "axes", "runs")
        if (self.tokens is None) == (self.tokens_per_parameter is None):
            keys = "tokens", "tokens_per_parameter"
            raise problem("give either 'tokens' or 'tokens_per_parameter'", *keys)
        return self

    @property
    def canonical_json(self) -> str:
        """Everything that determines the results, in one spelling.

        Resources are not part of it, nor are recovery points and whether Pareto curves are measured
        as well. Sections
        that are younger than the first studies count where they are not the default.
        """
        content = self.model_dump(
            mode="json",
            exclude={
                "description": True,
                "resources": True,
                "measurement": {"pareto": True},
                "checkpoints": {"recover_every": True},
            },
        )
        if self.stability == Stability():
            del content["stability"]
        return json.dumps(content, sort_keys=True, separators=(",", ":"))

    @property
    def study_id(self) -> str:
        """Name and a short hash of the canonical definition: the same study, the same id."""
        return f"{self.name}-{hashlib.sha256(self.canonical_json.encode()).hexdigest()[:8]}"
