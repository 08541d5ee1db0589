"""Which text `sparsing measure` measures on, by its options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sparsing.actors.measuring.inputs.folders import Model
from sparsing.actors.measuring.inputs.text import SMALLEST_SEQUENCES, Halves, of_files, of_prepared
from sparsing.study.errors import DefinitionError


def halves_for(
    models: list[Model],
    data: tuple[str, ...],
    sequence_tokens: int | None,
    field: str,
    say: Callable[[str], None],
) -> Halves:
    """All sequences of the files in `data`, or of the study's validation data where it is empty.

    Args:
        models: all with the same tokenizer.
        data: `FILE` or `NAME=FILE` of each domain.
        sequence_tokens: tokens of a sequence of a file; None: as the models want it.
        field: key or column of the files' text.
        say: called with a line for people.

    Raises:
        DefinitionError: a file or an option is wrong, or there is no data, or too little.
    """
    if data:
        positions = _positions(models, sequence_tokens)
        return of_files(_files(data), field, models[0].documents, positions, say)
    studies = {m.validation.path if m.validation else None: m.validation for m in models}
    found = next(iter(studies.values()))
    if len(studies) > 1 or found is None:
        whose = "the models have no data in common" if len(studies) > 1 else "it has no data"
        raise DefinitionError(f"{models[0].path}: {whose}: give text by --data FILE")
    if sequence_tokens is not None:
        raise DefinitionError("--sequence-tokens is for --data; validation data has its own")
    halves = of_prepared(found)
    halves.check()
    return halves


def limited(whole: Halves, tokens: int | None) -> Halves:
    """As many sequences as these tokens allow, as many of each domain and half.

    Raises:
        DefinitionError: they are too few.
    """
    if tokens is None or tokens >= whole.tokens:
        return whole
    positions = whole.report.positions
    each = 2 * positions * len(whole.report.domains)
    if tokens < SMALLEST_SEQUENCES * each:
        raise DefinitionError(
            f"--tokens {tokens} is too few: {SMALLEST_SEQUENCES} sequences of {positions} tokens "
            f"in each half of each domain are {SMALLEST_SEQUENCES * each}; ask for so many, or "
            "for shorter sequences by --sequence-tokens"
        )
    return whole.first(tokens // each)


def _positions(models: list[Model], sequence_tokens: int | None) -> int:
    positions = sequence_tokens or min(model.sequence_tokens for model in models)
    for model in models:
        if model.max_positions is not None and positions > model.max_positions:
            raise DefinitionError(
                f"--sequence-tokens {positions}: {model.path} was made for at most "
                f"{model.max_positions}"
            )
    return positions


def _files(data: tuple[str, ...]) -> dict[str, Path]:
    """Files by domain: `NAME=FILE`, or a file, whose name without its endings is the domain's."""
    files: dict[str, Path] = {}
    for text in data:
        name, _, file = text.rpartition("=")
        if not name or Path(text).is_file():
            file = text
            name = Path(file).name.split(".")[0]
        if name in files:
            raise DefinitionError(
                f"--data {text}: there is a domain {name} already; name it: --data OTHER={file}"
            )
        if not Path(file).is_file():
            what = "is a folder; give its files" if Path(file).is_dir() else "there is no such file"
            raise DefinitionError(f"--data {file}: {what}")
        files[name] = Path(file)
    return files
