"""Pydantic's complaints about a definition in the user's words, at their place in the text."""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from sparsing.study.definition.messages import did_you_mean, nearest_key, number_text
from sparsing.study.definition.model import Study
from sparsing.study.definition.points import Path
from sparsing.study.definition.shapes import NAMED_SCALES
from sparsing.study.definition.values import Name, ScaleName
from sparsing.study.definition.yaml_tree import YamlNode

COUNT = "a whole number, such as 4096, 27M or 8e11"
MAPPING = "keys with values, indented below it"
TYPE_WORDS = {
    "int_type": COUNT,
    "int_parsing": COUNT,
    "int_from_float": COUNT,
    "int_parsing_size": COUNT,
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "string_type": "text; put it in quotes",
    "list_type": "a list, such as [a, b]",
    "tuple_type": "a list of values",
    "dict_type": MAPPING,
    "model_type": MAPPING,
}
BOUND_WORDS = {
    "greater_than": ("gt", "over {}"),
    "greater_than_equal": ("ge", "at least {}"),
    "less_than": ("lt", "below {}"),
    "less_than_equal": ("le", "at most {}"),
    "too_short": ("min_length", "at least {} value(s)"),
    "too_long": ("max_length", "at most {} value(s)"),
}


@dataclass(frozen=True)
class Wrong:
    """One wrong value: what to say about it, where, and what to leave out to read on."""

    path: Path
    message: str
    at_key: bool
    """Whether it shows at the key, not at the value."""
    missing: bool
    """Whether there is no value that could be shown."""
    node: YamlNode
    """What to take out of its parent before validating again."""
    parent: YamlNode | None
    suspects: tuple[Path, ...]
    """Keys that this may be meant for, or that it rests on."""
    follows: bool
    """Whether it may be there only because of another mistake."""


def wrong_values(errors: list[Any], tree: YamlNode) -> list[Wrong]:
    """Pydantic's error list for `tree.plain()`, unknown keys first."""
    found = [_wrong(error, tree) for error in errors]
    return sorted(found, key=lambda wrong: wrong.follows)


def _wrong(error: Mapping[str, Any], tree: YamlNode) -> Wrong:
    kind, loc = error["type"], error["loc"]
    parent, node = None, tree
    for piece in loc:
        if (child := node.child(piece)) is not None:
            parent, node = node, child
    path = node.path
    suspects: tuple[Path, ...] = ()
    message = _words(error, node.value)
    if kind == "missing" and isinstance(loc[-1], int):
        kind, message = "too_few", "two values are needed, such as [0.9, 0.95]"
    elif kind == "missing":
        path = (*path, loc[-1])
        message = f"missing{_description(loc)}"
    elif kind == "extra_forbidden":
        keys = list(_model_at(loc).model_fields)
        meant = nearest_key(loc[-1], keys)
        suspects = ((*path[:-1], meant),) if meant else ()
        hint = did_you_mean(loc[-1], keys) or f"; allowed here: {', '.join(keys)}"
        message = f"unknown key{hint}"
    elif kind == "study":
        suspects = tuple((*path, key) for key in error["ctx"]["keys"])
    return Wrong(
        path=path,
        message=message,
        at_key=kind in ("missing", "extra_forbidden", "study") or loc[-1:] == ("[key]",),
        missing=kind in ("missing", "study"),
        node=node,
        parent=parent,
        suspects=suspects,
        follows=kind in ("missing", "study", "too_short", "too_few"),
    )


def _words(error: Mapping[str, Any], value: Any) -> str:
    """What is allowed, for an error that is about a value."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "study":
        return context["message"]
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"])
        return f"allowed: {context['expected']}{did_you_mean(value, choices)}"
    if kind in BOUND_WORDS:
        name, words = BOUND_WORDS[kind]
        return words.format(number_text(context[name]))
    if kind == "string_pattern_mismatch":
        return _pattern_words(context["pattern"], value)
    if kind == "string_type" and isinstance(value, dict | list | None):
        return "text"
    return TYPE_WORDS.get(kind, error["msg"].removeprefix("Input should be "))


def _pattern_words(pattern: str, value: Any) -> str:
    if pattern == _pattern(ScaleName):
        named = ", ".join(NAMED_SCALES)
        return (
            f"a scale of the paper ({named}), a parameter count such as 27M, or a shape "
            f"such as {{d_h: 32, layers: 4}}{did_you_mean(value, NAMED_SCALES)}"
        )
    assert pattern == _pattern(Name)
    return "at most 48 lower-case letters, digits, - and _, a letter or digit first"


def _pattern(annotated: Any) -> str:
    return typing.get_args(annotated)[1].metadata[0].pattern


def _description(loc: Path) -> str:
    """What a missing key means, from its docstring."""
    about = _model_at(loc).model_fields[str(loc[-1])].description
    return f": {' '.join(about.split())}" if about else ""


def _model_at(loc: Path) -> type[BaseModel]:
    """The part of the definition that holds the last key of `loc`."""
    model: type[BaseModel] = Study
    for piece in loc[:-1]:
        if piece in model.model_fields:
            model = _inner_model(model.model_fields[str(piece)].annotation) or model
    return model


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_inner_model(argument) for argument in typing.get_args(annotation))
    return next(filter(None, inner), None)
