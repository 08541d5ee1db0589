"""Reading a study definition: a file or a preset becomes a Study, or all its problems at once."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from sparsing.study.definition.data import Data
from sparsing.study.definition.model import Study
from sparsing.study.definition.reading import Reading
from sparsing.study.definition.yaml_tree import YamlProblem, read_yaml
from sparsing.study.errors import DefinitionError, NotFoundError


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    names = (entry.name for entry in (resources.files("sparsing.study") / "presets").iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def load_study(selector: str) -> Study:
    """The study of a definition file or preset; a path has a slash or ends in .yaml or .yml.

    Relative paths of sources count from the file's folder; from the working folder for presets.
    Raises DefinitionError with all problems, NotFoundError where there is no such file or preset.
    """
    if "/" not in selector and not selector.endswith((".yaml", ".yml")):
        return parse_study(_preset(selector), where=f"preset {selector}", folder=Path.cwd())
    try:
        file = Path(selector).expanduser()
        return parse_study(file.read_bytes(), where=selector, folder=file.absolute().parent)
    except FileNotFoundError as error:
        raise NotFoundError(
            f"no file {selector}; presets: {', '.join(preset_names())}",
            code="unknown_file",
            file=selector,
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DefinitionError(f"{selector}: cannot be read: {reason}") from error


def read_study(content: Mapping[str, Any]) -> Study:
    """The study of a mapping with the keys of a definition file.

    Raises DefinitionError with all problems, as `parse_study`.
    """
    try:
        text = json.dumps(content, indent=1)
    except (TypeError, ValueError) as error:
        raise DefinitionError(f"a definition holds plain values only: {error}") from error
    return parse_study(text.encode(), where="definition", folder=Path.cwd())


def parse_study(text: bytes, *, where: str, folder: Path) -> Study:
    """The study that YAML text defines; `where` names the text in messages.

    Raises DefinitionError with a line for each problem, in the order of the text:
    `where:line:column: path.in.definition = value: what is allowed`.
    """
    try:
        tree, left_out = read_yaml(text)
    except YamlProblem as error:
        raise DefinitionError(f"{where}:{error.line}:{error.column}: {error}") from error
    reading = Reading(tree, left_out)
    study = reading.study()
    if study is None or reading.found:
        lines = (f"{where}:{line}:{column}: {words}" for line, column, words in reading.found)
        raise DefinitionError("\n".join(lines))
    return _with_absolute_paths(study, folder)


def _preset(name: str) -> bytes:
    if name not in preset_names():
        raise NotFoundError(
            f"no preset '{name}'; presets: {', '.join(preset_names())}; "
            "a file's name ends in .yaml or has a slash",
            code="unknown_preset",
            preset=name,
            known=preset_names(),
        )
    return (resources.files("sparsing.study") / "presets" / f"{name}.yaml").read_bytes()


def _with_absolute_paths(study: Study, folder: Path) -> Study:
    domains = {
        name: source
        if source.path is None or "://" in source.path
        else source.model_copy(update={"path": _absolute(source.path, folder)})
        for name, source in study.data.domains.items()
    }
    tokenizer = study.data.tokenizer
    if tokenizer.path is not None:
        tokenizer = tokenizer.model_copy(update={"path": _absolute(tokenizer.path, folder)})
    data: Data = study.data.model_copy(update={"domains": domains, "tokenizer": tokenizer})
    return study.model_copy(update={"data": data})


def _absolute(path: str, folder: Path) -> str:
    return os.path.abspath(folder / os.path.expanduser(path))


def with_places(lines: list[str], selector: str) -> list[str]:
    """Lines that begin with a path of a definition, with file, line and column where it is one."""
    if "/" not in selector and not selector.endswith((".yaml", ".yml")):
        return lines
    try:
        tree, _ = read_yaml(Path(selector).expanduser().read_bytes())
    except (OSError, YamlProblem):
        return lines
    placed = []
    for line in lines:
        node = tree
        for piece in line.partition(":")[0].split("."):
            if (child := node.child(piece)) is None:
                break
            node = child
        row, column = node.key_place
        placed.append(f"{selector}:{row}:{column}: {line}")
    return placed
