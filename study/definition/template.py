"""A definition written for a user who begins: what they wished, and comments on what there is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sparsing.study.definition.load import parse_study
from sparsing.study.errors import DefinitionError

KINDS = {".jsonl": "jsonl", ".json": "jsonl", ".parquet": "parquet", ".arrow": "arrow"}
"""Kind of source by a file's ending; anything else is text."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a user says of a study to begin with."""

    name: str
    activations: Sequence[str]
    scales: Sequence[str]
    seeds: int
    tokens_per_parameter: float
    data: Sequence[str]
    """`PATH` or `NAME=PATH`; none: Python's standard library."""


def written_definition(wishes: Wishes, file: Path) -> str:
    """The text of a definition file.

    Raises:
        DefinitionError: what is wished is no definition; with all problems at once.
    """
    text = f"""\
# A study for `sparsing plan {file.name}` and `sparsing run {file.name}`.
# `sparsing schema` prints every key with its meaning; what is left out follows the paper.
name: {_quoted(wishes.name)}

# The runs are the product of the axes.
axes:
  activation: [{", ".join(wishes.activations)}]   # relu, silu, relu2, gelu
  scale: [{", ".join(wishes.scales)}]   # parameters, as 27M, or a shape {{d_h: 64, layers: 4}}
  seed: [{", ".join(map(str, range(wishes.seeds)))}]

# Training tokens of each run; or `tokens: 2B`, the same for all runs.
tokens_per_parameter: {wishes.tokens_per_parameter:g}

# What is trained on: domains with weights, mixed in that proportion.
data:
  domains:
{_domains(wishes.data)}

# Some of the defaults, to change where you like:
# optimization: {{peak_learning_rate: 0.01, warmup_tokens: 1M, decay_tokens: 0}}
# checkpoints: {{count: 20, spacing: log}}
# measurement: {{p_percent: 1}}
# resources: {{shards: 1, parallel_runs: 1}}
"""
    parse_study(text.encode(), where=str(file), folder=file.absolute().parent)
    return text


def _domains(data: Sequence[str]) -> str:
    if not data:
        return "    code: {kind: python-stdlib}   # the source code of Python's standard library"
    lines = {}
    for each in data:
        name, _, path = each.rpartition("=")
        name = name or Path(path).stem.lower()
        if name in lines:
            raise DefinitionError(
                f"two data are called {name}: write NAME={path}", code="same_name", name=name
            )
        kind = _kind(Path(path))
        lines[name] = f"    {_quoted(name)}: {{kind: {kind}, path: {_quoted(path)}, weight: 1}}"
    return "\n".join(lines.values())


def _kind(path: Path) -> str:
    """The kind of a file by its ending, of a folder by its files."""
    found = {KINDS.get(path.suffix)} if path.suffix else set()
    if path.is_dir():
        found = {KINDS[each.suffix] for each in path.rglob("*") if each.suffix in KINDS}
    return next((kind for kind in found if kind), "text")


def _quoted(text: str) -> str:
    """A YAML scalar; JSON's quotes where plain letters would mean something else."""
    plain = text.replace("-", "").replace("_", "").replace("/", "").replace(".", "")
    return text if plain.isalnum() and not plain.isdigit() else json.dumps(text)
