"""What a study is trained on: the part `data` of a definition."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, Strict, model_serializer, model_validator

from sparsing.study.definition.values import Count, Model, Name, problem

FieldPath = str
"""A key or column, or a way to one inside it: `text`, `meta.text`."""


class _Younger(Model):
    """A part with keys that are younger than the first studies.

    They are written only where they are not the default, so that a definition from before them
    keeps its spelling, and a study its id.
    """

    @model_serializer(mode="wrap")
    def _without_younger_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content = handler(self)
        for key in YOUNGER_KEYS.get(type(self).__name__, ()):
            if getattr(self, key) == type(self).model_fields[key].default:
                content.pop(key, None)
        return content


class Filter(Model):
    """Which rows of a source are taken: those whose value is one of some, or in a range."""

    field: FieldPath
    """Column or key to look at."""
    values: Annotated[tuple[str | int | bool, ...], Strict(False)] | None = Field(
        default=None, min_length=1
    )
    """Values that are taken."""
    minimum: float | None = None
    """Numbers from here on are taken."""
    maximum: float | None = None
    """Numbers up to here are taken."""

    @model_validator(mode="after")
    def _one_rule(self) -> Filter:
        if self.values is None and self.minimum is None and self.maximum is None:
            raise problem("a filter needs 'values', 'minimum' or 'maximum'", "values")
        return self


class Source(_Younger):
    """Where the text of one domain comes from."""

    kind: Literal[
        "python-stdlib", "text", "jsonl", "parquet", "arrow", "huggingface", "fetched", "tokens"
    ]
    """`python-stdlib`: the standard library's own sources, there on every machine. `text`,
    `jsonl`, `parquet`, `arrow`: a file or folder at `path`. `huggingface`: a data set of the
    `datasets` library. `fetched`: a corpus that `sparsing data fetch` has brought, by `name`.
    `tokens`: text that is tokenized already, at `path`."""
    path: str | None = None
    """File or folder, or `s3://bucket/prefix`; relative to the definition's folder."""
    name: str | None = None
    """Corpus name for `fetched`; data set name for `huggingface`."""
    config: str | None = None
    """Configuration of the Hugging Face data set."""
    split: str = "train"
    """Split of the Hugging Face data set."""
    field: FieldPath = "text"
    """Column or key that holds the text, for jsonl, parquet, arrow and huggingface; `meta.text`
    is the key `text` inside `meta`."""
    weight: float = Field(default=1.0, gt=0, le=1e9)
    """Share of this domain in the mixture, relative to the others."""
    filter: Filter | None = None
    """Take only some rows of jsonl, parquet, arrow and huggingface; default: all."""
    max_broken_share: float = Field(default=0.0, ge=0, le=0.5)
    """Lines, rows and files that cannot be read are left out, counted and named up to this share;
    more, and the preparation stops."""
    format: Literal["auto", "megatron", "datatrove", "flat", "huggingface"] = "auto"
    """How `tokens` are stored: Megatron-LM `.bin` with `.idx`, datatrove `.ds`, flat `.bin`
    (nanoGPT; modded-nanogpt's header is known), a Hugging Face data set with `input_ids`; `auto`:
    by the files' names."""
    dtype: Literal["uint16", "uint32"] = "uint16"
    """Of `tokens` in flat and datatrove files, which do not say it."""

    @model_validator(mode="after")
    def _keys_of_kind(self) -> Source:
        for key in ("path", "name", "config"):
            given, needed = getattr(self, key) is not None, key == SOURCE_NEEDS[self.kind]
            if needed and not given:
                raise problem(f"a source of kind '{self.kind}' needs the key '{key}'", "kind", key)
            if given and not needed and not (key == "config" and self.kind == "huggingface"):
                message = f"a source of kind '{self.kind}' has no '{key}'; leave it out"
                raise problem(message, "kind", key)
        if self.filter is not None and self.kind not in FILTERED_KINDS:
            message = f"a source of kind '{self.kind}' has no rows to filter; leave 'filter' out"
            raise problem(message, "kind", "filter")
        for key in ("format", "dtype"):
            if self.kind != "tokens" and getattr(self, key) != type(self).model_fields[key].default:
                raise problem(f"'{key}' is for sources of kind 'tokens'", "kind", key)
        return self


SOURCE_NEEDS: dict[str, str | None] = {
    "python-stdlib": None,
    "text": "path",
    "jsonl": "path",
    "parquet": "path",
    "arrow": "path",
    "huggingface": "name",
    "fetched": "name",
    "tokens": "path",
}
FILTERED_KINDS = ("jsonl", "parquet", "arrow", "huggingface", "fetched")


class Tokenizer(_Younger):
    """How text becomes tokens."""

    kind: Literal["bytes", "bpe", "file"] = "bpe"
    """`bytes`: one token per byte of UTF-8. `bpe`: byte-level BPE, trained on a sample. `file`: a
    tokenizer that exists, at `path`."""
    vocabulary_size: Count = Field(default=32_000, ge=257, le=2**24)
    """Entries of the BPE vocabulary with the end-of-document token; bytes always have 257. Of a
    tokenizer file, which says it itself, it is what `sparsing plan` counts with."""
    sample_bytes: Count = Field(default=50_000_000, ge=10_000)
    """BPE is trained on this much text, drawn from all domains alike."""
    path: str | None = None
    """For `file`: a `tokenizer.json`, or a folder of Hugging Face that holds one."""
    end_of_document: str | None = None
    """For `file`: its token that ends a document; default: what its folder's
    `tokenizer_config.json` calls `eos_token`, or a well-known name."""

    @model_validator(mode="after")
    def _keys_of_kind(self) -> Tokenizer:
        if self.kind == "file" and self.path is None:
            raise problem("a tokenizer of kind 'file' needs the key 'path'", "kind", "path")
        for key in ("path", "end_of_document"):
            if self.kind != "file" and getattr(self, key) is not None:
                raise problem(f"'{key}' is for tokenizers of kind 'file'", "kind", key)
        return self

    @property
    def entries(self) -> int:
        """Tokens that a model knows: of bytes 256 and the end of a document."""
        return 257 if self.kind == "bytes" else self.vocabulary_size


YOUNGER_KEYS: dict[str, tuple[str, ...]] = {
    "Source": ("filter", "max_broken_share", "format", "dtype"),
    "Tokenizer": ("path", "end_of_document"),
}


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

    @model_validator(mode="after")
    def _tokens_have_their_tokenizer(self) -> Data:
        kinds = {source.kind for source in self.domains.values()}
        if "tokens" in kinds and self.tokenizer.kind == "bpe":
            raise problem(
                "sources of kind 'tokens' need the tokenizer that made them; write "
                "tokenizer: {kind: file, path: ...}",
                "tokenizer",
            )
        return self
