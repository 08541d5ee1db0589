"""The study definition: one pydantic model, with the paper's settings as defaults.

A definition says what is studied; `study.plan` turns it into runs. Each field's unit is in its
name, each default follows the paper (section 3) unless its comment says otherwise. Counts may be
written as people say them: `27M`, `1.5B`, `8e11`.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

COUNT_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
COUNT_PATTERN = re.compile(r"^\s*(\d+(?:\.\d+)?(?:[eE]\+?\d+)?)\s*([KMBT]?)\s*$")


def parse_count(value: Any) -> Any:
    """An integer from `27M`, `1.5B`, `8e11`, `1_000` or a whole float; others pass unchanged."""
    if isinstance(value, str) and (match := COUNT_PATTERN.match(value.replace("_", ""))):
        value = float(match[1]) * COUNT_UNITS[match[2]]
    if isinstance(value, float) and abs(value) < 1e18 and value == round(value):
        return round(value)
    return value


Count = Annotated[int, BeforeValidator(parse_count)]
Activation = Literal["relu", "silu", "relu2", "gelu"]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,47}$")]


class Model(BaseModel):
    """Base of all parts: unknown keys are errors, values do not change after validation."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Shape(Model):
    """An explicit model shape, where a named scale does not fit."""

    d_h: Count = Field(ge=2)
    """Hidden size."""
    layers: Count = Field(ge=1)
    d_f: Count | None = Field(default=None, ge=1)
    """Intermediate size of the gated FFN; default 2.5 d_h, rounded."""
    heads: Count | None = Field(default=None, ge=1)
    """Attention heads, each with its own key and value; default: head size near 64."""


Scale = Annotated[str, Field(pattern=r"^\d+(\.\d+)?[KMB]$")] | Shape


class Axes(Model):
    """The study's axes; the runs are their product."""

    activation: list[Activation] = Field(default=["relu"], min_length=1)
    scale: list[Scale] = Field(min_length=1)
    """Named scales of the paper's Table 3 (`0.1B` ... `2.4B`), any other non-embedding parameter
    count (`27M`), or explicit shapes."""
    width_depth_ratio: list[float] | None = None
    """d_h / layers; default: the named scale's own, 52 for other counts. Not with shapes."""
    seed: list[Annotated[int, Field(ge=0, lt=2**31)]] = Field(default=[0], min_length=1)


class RunPoint(Model):
    """One run, written out: a point of the axes."""

    activation: Activation = "relu"
    scale: Scale
    width_depth_ratio: float | None = Field(default=None, gt=0)
    seed: int = Field(default=0, ge=0, lt=2**31)


class Source(Model):
    """Where the text of one domain comes from."""

    kind: Literal["python-stdlib", "text", "jsonl", "parquet", "huggingface", "fetched"]
    """`python-stdlib`: the standard library's own sources, there on every machine. `text`,
    `jsonl`, `parquet`: a file or folder at `path`. `huggingface`: a data set of the `datasets`
    library. `fetched`: a corpus that `sparsing data fetch` has brought, by `name`."""
    path: str | None = None
    """File or folder, for text, jsonl and parquet; relative to the definition's folder."""
    name: str | None = None
    """Corpus name for `fetched`; data set name for `huggingface`."""
    config: str | None = None
    """Configuration of the Hugging Face data set."""
    split: str = "train"
    """Split of the Hugging Face data set."""
    field: str = "text"
    """Column or key that holds the text, for jsonl, parquet and huggingface."""
    weight: float = Field(default=1.0, gt=0)
    """Share of this domain in the mixture, relative to the others."""

    @model_validator(mode="after")
    def _needs(self) -> Source:
        needed = {"text": "path", "jsonl": "path", "parquet": "path"}.get(
            self.kind, {"fetched": "name", "huggingface": "name"}.get(self.kind)
        )
        if needed and getattr(self, needed) is None:
            raise ValueError(f"a source of kind '{self.kind}' needs the key '{needed}'")
        return self


class Tokenizer(Model):
    """How text becomes tokens."""

    kind: Literal["bytes", "bpe"] = "bpe"
    vocabulary_size: Count = Field(default=32_000, ge=257)
    """Entries of the BPE vocabulary with the end-of-document token; bytes always have 257."""
    sample_bytes: Count = Field(default=50_000_000, ge=10_000)
    """BPE is trained on this much text, drawn from all domains by weight."""


class Validation(Model):
    """The validation set of each domain: deduplicated against training, split in two halves."""

    tokens: Count = Field(default=65_536, ge=2)
    """Tokens per domain, both halves together."""
    near_duplicate_jaccard: float = Field(default=0.7, gt=0, le=1)
    """Validation passages this similar to training text (5-word shingles) are dropped."""


class Data(Model):
    """The training mixture: domains with their sources, the tokenizer, the validation set."""

    domains: dict[Name, Source] = Field(min_length=1)
    tokenizer: Tokenizer = Tokenizer()
    sequence_tokens: Count = Field(default=4096, ge=8)
    validation: Validation = Validation()
    max_bytes: Count | None = Field(default=None, ge=10_000)
    """Read at most this much text per domain; default: all of it."""


class Optimization(Model):
    """muP, AdamW and WSD, as in the paper (section 3)."""

    peak_learning_rate: float = Field(default=0.01, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    epsilon: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    gradient_clip: float = Field(default=1.0, gt=0)
    warmup_tokens: Count | None = Field(default=None, ge=0)
    """WSD warm-up; default 1 % of the run's tokens. Points inside it are not fitted."""
    decay_tokens: Count = Field(default=0, ge=0)
    """WSD decay at the end; the paper's sparsity curves end before it."""
    batch_tokens: Count | dict[str, Count] | None = None
    """Global batch: one number, or one per scale as written in the axes; default: the paper's
    per scale, between and beyond them interpolated in log-log."""
    micro_batch_sequences: Count = Field(default=8, ge=1)
    """Sequences per shard and forward at most; the rest is gradient accumulation."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """`auto`: bf16 on GPUs that have it, float32 elsewhere."""
    zero_stage: Literal["auto", 0, 1, 2, 3] = "auto"
    """`auto`: 1 on GPUs, 0 on CPUs (where sharding costs more than it saves)."""


class MuP(Model):
    """Scalings of the muP Transformer in the MiniCPM manner (paper section 3)."""

    scale_emb: float = Field(default=12.0, gt=0)
    scale_depth: float = Field(default=1.4, gt=0)
    dim_model_base: Count = Field(default=256, ge=1)
    """Width at which every muP factor is 1."""
    init_std: float = Field(default=0.1, gt=0)


class Checkpoints(Model):
    """When a run saves a checkpoint, and so when its sparsity is measured."""

    count: Count = Field(default=20, ge=1)
    """How many, the last one at the run's end."""
    spacing: Literal["linear", "log"] = "linear"
    first_tokens: Count | None = Field(default=None, ge=1)
    """First checkpoint; default: the run's tokens / count."""
    tokens: list[Count] | None = Field(default=None, min_length=1)
    """The token counts themselves; replaces count, spacing and first_tokens."""


class Measurement(Model):
    """How sparsity is measured: CETT-PPL-p% by Algorithm 1, stabilized (Appendix E)."""

    p_percent: float = Field(default=1.0, gt=0, le=100)
    """Rise of validation perplexity at which the activation ratio is read."""
    stabilizing_checkpoints: Count = Field(default=5, ge=1)
    """The run's CETT value is searched on this many last pre-decay checkpoints together."""


class Resources(Model):
    """What a run occupies on the Ray cluster."""

    shards: Count = Field(default=1, ge=1)
    """World size of each run: shards of its gang."""
    gpus_per_shard: float | None = Field(default=None, ge=0)
    """Default: 1 where the cluster has GPUs, else 0."""
    cpus_per_shard: float = Field(default=1, gt=0)
    accelerator_type: str | None = None
    """As Ray names it, for example `A100` or `A800`."""
    placement: Literal["PACK", "STRICT_PACK", "SPREAD", "STRICT_SPREAD"] = "PACK"
    parallel_runs: Count | None = Field(default=None, ge=1)
    """At most so many runs at once; default: as many as fit."""
    measurers: Count = Field(default=1, ge=1)
    """Measurer actors beside the training."""
    threads_per_shard: Count = Field(default=1, ge=1)
    """CPU threads of a shard; two one-thread runs side by side beat one two-thread run."""


LawName = Literal["relu", "silu"]


class Study(Model):
    """A study definition."""

    name: Name
    description: str = ""
    axes: Axes | None = None
    runs: list[RunPoint] = []
    """Runs besides, or instead of, the product of the axes."""
    tokens: Count | None = Field(default=None, ge=1)
    """Training tokens of each run."""
    tokens_per_parameter: float | None = Field(default=None, gt=0)
    """Training tokens per non-embedding parameter, instead of `tokens`."""
    data: Data
    optimization: Optimization = Optimization()
    mup: MuP = MuP()
    checkpoints: Checkpoints = Checkpoints()
    measurement: Measurement = Measurement()
    laws: Literal["auto"] | list[LawName] = "auto"
    """Laws fitted to each run; `auto`: the paper's form for the run's activation."""
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _one_of(self) -> Study:
        if self.axes is None and not self.runs:
            raise ValueError("a study needs 'axes' or 'runs'")
        if (self.tokens is None) == (self.tokens_per_parameter is None):
            raise ValueError("give either 'tokens' or 'tokens_per_parameter'")
        return self

    @property
    def canonical_json(self) -> str:
        """Everything that determines the results, in one spelling; resources are not part of it."""
        content = self.model_dump(mode="json", exclude={"description", "resources"})
        return json.dumps(content, sort_keys=True, separators=(",", ":"))

    @property
    def study_id(self) -> str:
        """Name and a short hash of the canonical definition: the same study, the same id."""
        return f"{self.name}-{hashlib.sha256(self.canonical_json.encode()).hexdigest()[:8]}"
