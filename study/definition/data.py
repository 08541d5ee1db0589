"""What a study is trained on: the part `data` of a definition."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from sparsing.study.definition.values import Count, Model, Name, problem


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
    weight: float = Field(default=1.0, gt=0, le=1e9)
    """Share of this domain in the mixture, relative to the others."""

    @model_validator(mode="after")
    def _keys_of_kind(self) -> Source:
        for key in ("path", "name", "config"):
            given, needed = getattr(self, key) is not None, key == SOURCE_NEEDS[self.kind]
            if needed and not given:
                raise problem(f"a source of kind '{self.kind}' needs the key '{key}'", "kind", key)
            if given and not needed and not (key == "config" and self.kind == "huggingface"):
                message = f"a source of kind '{self.kind}' has no '{key}'; leave it out"
                raise problem(message, "kind", key)
        return self


SOURCE_NEEDS: dict[str, str | None] = {
    "python-stdlib": None,
    "text": "path",
    "jsonl": "path",
    "parquet": "path",
    "huggingface": "name",
    "fetched": "name",
}


class Tokenizer(Model):
    """How text becomes tokens."""

    kind: Literal["bytes", "bpe"] = "bpe"
    """`bytes`: one token per byte of UTF-8. `bpe`: byte-level BPE, trained on a sample."""
    vocabulary_size: Count = Field(default=32_000, ge=257, le=2**24)
    """Entries of the BPE vocabulary with the end-of-document token; bytes always have 257."""
    sample_bytes: Count = Field(default=50_000_000, ge=10_000)
    """BPE is trained on this much text, drawn from all domains by weight."""

    @property
    def entries(self) -> int:
        """Tokens that a model knows: of bytes 256 and the end of a document."""
        return 257 if self.kind == "bytes" else self.vocabulary_size


class Validation(Model):
    """The validation set of each domain: deduplicated against training, split in two halves."""

    tokens: Count = Field(default=65_536, ge=2)
    """Tokens per domain, both halves together."""
    near_duplicate_jaccard: float = Field(default=0.7, gt=0, le=1)
    """Validation passages this similar to training text (5-word shingles) are dropped."""


class Data(Model):
    """The training mixture: domains with their sources, the tokenizer, the validation set."""

    domains: dict[Name, Source] = Field(min_length=1)
    """Sources by domain; a domain has its own validation set, and rows of its own."""
    tokenizer: Tokenizer = Tokenizer()
    """How text becomes tokens."""
    sequence_tokens: Count = Field(default=4096, ge=8, le=2**24)
    """Tokens of a training sequence."""
    validation: Validation = Validation()
    """The validation set of each domain."""
    max_bytes: Count | None = Field(default=None, ge=10_000)
    """Read at most this much text per domain; default: all of it."""
