"""YAML read as a tree in which every value knows its line and column.

YAML 1.2 (core schema), and only what a definition needs of it: no aliases, anchors, tags, merge
keys or repeated keys, one document, 256 kB, 32 levels. It is built from the parser's events, so
that no input can exhaust the stack or the memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML, events
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from sparsing.study.definition.points import Path

MAX_BYTES = 256_000
MAX_STORED_BYTES = 16 * MAX_BYTES
"""Of a definition in a store, where everything is written out that was left to its default."""
MAX_DEPTH = 32

_INTEGER = re.compile(r"[-+]?[0-9]{1,400}|0o[0-7]{1,400}|0x[0-9a-fA-F]{1,400}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


class YamlProblem(Exception):
    """The text is no acceptable YAML; with the place where that shows."""

    def __init__(self, message: str, line: int = 1, column: int = 1, path: Path = ()):
        super().__init__(message)
        self.line = line
        self.column = column
        self.path = path


@dataclass
class YamlNode:
    """A value, its place in the text (from 1), and its place in the definition."""

    value: Any
    """A scalar, a dict of str to YamlNode, or a list of YamlNode."""
    place: tuple[int, int] = (1, 1)
    """Line and column, from 1."""
    path: Path = ()
    key_place: tuple[int, int] = (1, 1)
    """Where the key stands that leads here; the value's own place in a list."""

    def plain(self) -> Any:
        """The value without places, as `yaml.safe_load` would give it."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def child(self, key: str | int) -> YamlNode | None:
        """The value under a key or index, or None."""
        if isinstance(self.value, dict):
            return self.value.get(key) if isinstance(key, str) else None
        if isinstance(self.value, list) and isinstance(key, int) and key < len(self.value):
            return self.value[key]
        return None

    def remove(self, child: YamlNode) -> None:
        """Take a value out of this mapping or list; the others keep their places."""
        if isinstance(self.value, dict):
            self.value = {k: node for k, node in self.value.items() if node is not child}
        else:
            self.value = [node for node in self.value if node is not child]


def read_stored_yaml(data: bytes) -> Any:
    """The value of a YAML text that the store wrote, or somebody in its place.

    Quicker than `read_yaml`, by the parser in C. Raises YamlProblem for everything that has to be
    left out of a definition, too.
    """
    tree, left_out = read_yaml(data, most_bytes=MAX_STORED_BYTES, in_c=True)
    if left_out:
        raise left_out[0]
    return tree.plain()


def read_yaml(
    data: bytes, *, most_bytes: int = MAX_BYTES, in_c: bool = False
) -> tuple[YamlNode, list[YamlProblem]]:
    """The tree of a YAML text, and what of it had to be left out (aliases, repeated keys, ...).

    in_c: by the parser in C, which is quicker, and says less of what is wrong.
    Raises YamlProblem where the text cannot be read on.
    """
    try:
        text = _decode(data, most_bytes)
        return _Reader(YAML(typ="safe", pure=not in_c).parse(text)).document()
    except MarkedYAMLError as error:
        message = "; ".join(filter(None, (error.problem, error.context))) or "not YAML"
        raise YamlProblem(message, *_place(error.problem_mark or error.context_mark)) from error
    except YAMLError as error:
        raise YamlProblem(f"not YAML: {str(error).splitlines()[0]}") from error
    except (ValueError, OverflowError) as error:
        raise YamlProblem(f"an escaped character that does not exist: {error}") from error


class _Reader:
    """Builds the tree from events; recursion is no deeper than MAX_DEPTH."""

    def __init__(self, parsed: Iterator[events.Event]):
        self.events = (event for event in parsed if not isinstance(event, events.StreamStartEvent))
        self.problems: list[YamlProblem] = []

    def document(self) -> tuple[YamlNode, list[YamlProblem]]:
        if isinstance(next(self.events), events.StreamEndEvent):
            raise YamlProblem("empty: a study needs at least name, axes, tokens and data")
        root = self.node(next(self.events), ())
        next(self.events)
        if not isinstance(after := next(self.events), events.StreamEndEvent):
            raise YamlProblem("a second document: write one study", *_place(after.start_mark))
        return root or YamlNode(None), self.problems

    def node(self, event: events.Event, path: Path) -> YamlNode | None:
        """The value that starts with this event, or None where it had to be left out."""
        place = _place(event.start_mark)
        if len(path) > MAX_DEPTH:
            raise YamlProblem(f"nested deeper than {MAX_DEPTH} levels", *place)
        value: Any = None
        if isinstance(event, events.MappingStartEvent):
            value = self.mapping(path)
        elif isinstance(event, events.SequenceStartEvent):
            value = self.sequence(path)
        elif isinstance(event, events.ScalarEvent):
            value = _scalar(event)
        if refused := _refused(event):
            self.problems.append(YamlProblem(refused, *place, path=path))
            return None
        return YamlNode(value, place, path, place)

    def mapping(self, path: Path) -> dict[str, YamlNode]:
        found: dict[str, YamlNode] = {}
        while not isinstance(event := next(self.events), events.MappingEndEvent):
            place = _place(event.start_mark)
            key = event.value if isinstance(event, events.ScalarEvent) else "?"
            problem = _refused_key(event, key, found)
            if not isinstance(event, events.ScalarEvent):
                self.node(event, (*path, key))
            child = self.node(next(self.events), (*path, key))
            if problem:
                self.problems.append(YamlProblem(problem, *place, path=(*path, key)))
            elif child:
                child.key_place = place
                if child.value is None:  # an empty value's own mark is where the next key starts
                    child.place = place
                found[key] = child
        return found

    def sequence(self, path: Path) -> list[YamlNode]:
        found = []
        index = 0
        while not isinstance(event := next(self.events), events.SequenceEndEvent):
            if child := self.node(event, (*path, index)):
                found.append(child)
            index += 1
        return found


def _refused(event: events.Event) -> str | None:
    anchor = getattr(event, "anchor", None)
    if isinstance(event, events.AliasEvent):
        return f"alias *{anchor}: write the value out"
    if anchor:
        return f"anchor &{anchor}: leave it out, and write values out where they are needed"
    tag = getattr(event, "tag", None)
    return f"tag {tag}: leave it out" if tag else None


def _refused_key(event: events.Event, key: str, found: dict[str, YamlNode]) -> str | None:
    if not isinstance(event, events.ScalarEvent):
        return "a key must be text"
    if key == "<<":
        return "merge key <<: write the keys out"
    if key in found:
        return f"given twice, first in line {found[key].key_place[0]}"
    return _refused(event)


def _scalar(event: events.ScalarEvent) -> Any:
    """A scalar by YAML 1.2's core schema; quoted ones are text."""
    text: str = event.value
    if not event.implicit[0]:
        return text
    if text in _SPECIAL:
        return _SPECIAL[text]
    if _INTEGER.fullmatch(text):
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def _decode(data: bytes, most_bytes: int) -> str:
    if len(data) > most_bytes:
        raise YamlProblem(f"{len(data)} bytes: a definition has at most {most_bytes}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise YamlProblem("not text in UTF-8", line) from error
    if not text.strip():
        raise YamlProblem("empty: a study needs at least name, axes, tokens and data")
    return text


def _place(mark: Any) -> tuple[int, int]:
    """Line and column from 1."""
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)
