"""Which text `sparsing measure` measures on, by its options."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from sparsing.actors.measuring.inputs.folders import Model
from sparsing.actors.measuring.inputs.text import (
    SMALLEST_SEQUENCES,
    Halves,
    bytes_for,
    of_files,
    of_prepared,
)
from sparsing.study.errors import DefinitionError


def halves_for(
    models: list[Model],
    data: tuple[str, ...],
    sequence_tokens: int | None,
    field: str,
    say: Callable[[str], None],
    *,
    bos: bool = True,
    tokens: int | None = None,
) -> Halves:
    """All sequences of the files in `data`, or of the study's validation data where it is empty.

    Args:
        models: all with the same tokenizer.
        data: `FILE` or `NAME=FILE` of each domain, each a file or folder.
        sequence_tokens: tokens of a sequence of a file; None: as the models want it.
        field: key or column of the files' text.
        say: called with a line for people.
        bos: put before each sequence what the models' tokenizer puts before a text.
        tokens: wanted in all; None: as many as there are.

    Raises:
        DefinitionError: a file or an option is wrong, or there is no data, or too little.
    """
    if data:
        prefix = models[0].prefix if bos else ()
        positions = _positions(models, sequence_tokens, len(prefix))
        return of_files(
            _files(data),
            field,
            partial(models[0].documents, bos=bos),
            positions,
            say,
            prefix=prefix,
            most_bytes=bytes_for(tokens),
        )
    if not bos:
        raise DefinitionError("--no-bos is for --data; a study's validation data have no BOS")
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
            f"in each half of each domain are {SMALLEST_SEQUENCES * each}; ask for as many, or "
            "for shorter sequences by --sequence-tokens"
        )
    return whole.first(tokens // each)


def _positions(models: list[Model], sequence_tokens: int | None, before: int) -> int:
    most = min((m.max_positions - before for m in models if m.max_positions), default=None)
    wanted = min(model.sequence_tokens for model in models)
    if sequence_tokens is None:
        return wanted if most is None else min(wanted, most)
    if most is not None and sequence_tokens > most:
        and_bos = f", BOS taken off: {most}" if before else ""
        raise DefinitionError(
            f"--sequence-tokens {sequence_tokens}: {models[0].path} was made for at most "
            f"{most + before}{and_bos}"
        )
    return sequence_tokens


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
        if not Path(file).exists():
            raise DefinitionError(f"--data {file}: there is no such file or folder")
        files[name] = Path(file)
    return files
