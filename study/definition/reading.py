"""From a YAML tree to a Study, in rounds, so that all problems are found at once.

Pydantic reports every wrong value; those are taken out of the tree and what is left is validated
again, until it is well-formed; then `definition.checks` looks at what must fit together. What rests
on a value that was wrong is not reported: nobody knows yet what it will be.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from sparsing.study.definition.checks import DefinitionProblem, find_problems
from sparsing.study.definition.messages import path_text, value_text
from sparsing.study.definition.model import Study
from sparsing.study.definition.points import Path
from sparsing.study.definition.wording import Wrong, wrong_values
from sparsing.study.definition.yaml_tree import YamlNode, YamlProblem

_DOMAINS = {"x": {"kind": "python-stdlib"}}
STAND_INS: dict[Path, Any] = {
    ("name",): "x",
    ("axes",): {"scale": ["0.1B"]},
    ("tokens",): 10**10,
    ("data",): {"domains": _DOMAINS},
    ("data", "domains"): _DOMAINS,
}
"""In place of needed keys that are missing, for the rest to be checked."""


class Reading:
    """A tree while wrong values are taken out of it, and the problems found on the way."""

    def __init__(self, tree: YamlNode, left_out: Iterable[YamlProblem] = ()):
        self.tree = tree
        self._found: dict[tuple[int, int, str], None] = {}
        self._broken: set[Path] = set()
        for problem in left_out:
            place = path_text(problem.path)
            self._note(problem.line, problem.column, f"{place}: {problem}")
            self._broken.add(problem.path)

    @property
    def found(self) -> list[tuple[int, int, str]]:
        """Line, column and words of each problem, in the order of the text."""
        return sorted(self._found)

    def study(self) -> Study | None:
        """The study that is left when all wrong values are out; None where there is none."""
        if not isinstance(self.tree.value, dict):
            words = "a definition has keys with values, such as `name: my-study`"
            self._note(*self.tree.place, words)
            return None
        while True:
            try:
                study = Study.model_validate(self.tree.plain())
            except ValidationError as error:
                for wrong in wrong_values(error.errors(), self.tree):
                    self._take(wrong)
            else:
                for problem in find_problems(study):
                    self._check(problem, study)
                return study

    def _take(self, wrong: Wrong) -> None:
        """Report a wrong value, unless it follows from another, and take it out."""
        if not (wrong.follows and self._rests_on_broken(wrong.path, *wrong.suspects)):
            node = wrong.node
            place = node.key_place if wrong.at_key else node.place
            words = path_text(wrong.path) + ("" if wrong.missing else _equals(node.value))
            self._note(*place, f"{words}: {wrong.message}" if words else wrong.message)
        concerned = [path for path in (wrong.path, *wrong.suspects) if path]
        missing = concerned if wrong.missing else []
        self._broken.update(concerned)
        if stand_in := next((path for path in missing if path in STAND_INS), None):
            for path in missing:
                wrong.node.value.pop(path[-1], None)
            wrong.node.value[str(stand_in[-1])] = _stand_in(STAND_INS[stand_in])
        elif wrong.parent is not None:
            wrong.parent.remove(wrong.node)
            self._broken.add(wrong.node.path)

    def _check(self, problem: DefinitionProblem, study: Study) -> None:
        """Report what does not fit together, unless it rests on a value that was wrong."""
        nodes = self._walk(problem.path)
        rests_on = (self._original(path) for path in (problem.path, *problem.rests_on))
        if self._rests_on_broken(*rests_on):
            return
        given = len(nodes) == len(problem.path) + 1
        node = nodes[-1]
        value = node.value if given else _default(study, problem.path)
        place = node.place if given else node.key_place
        self._note(
            *place, f"{path_text(self._original(problem.path))}{_equals(value)}: {problem.message}"
        )

    def _walk(self, path: Path) -> list[YamlNode]:
        """The nodes along a path of the tree as it is now, as far as there are any."""
        nodes = [self.tree]
        for piece in path:
            if (child := nodes[-1].child(piece)) is None:
                break
            nodes.append(child)
        return nodes

    def _original(self, path: Path) -> Path:
        """A path as it was in the text, before list items before it were taken out."""
        nodes = self._walk(path)
        return nodes[-1].path + path[len(nodes) - 1 :]

    def _rests_on_broken(self, *paths: Path) -> bool:
        return any(_related(path, broken) for path in paths for broken in self._broken)

    def _note(self, line: int, column: int, words: str) -> None:
        self._found[line, column, words] = None


def _related(a: Path, b: Path) -> bool:
    shorter = min(len(a), len(b))
    return a[:shorter] == b[:shorter]


def _equals(value: Any) -> str:
    text = value_text(value)
    return f" = {text}" if text else ""


def _default(study: Study, path: Path) -> Any:
    """The value that a definition leaves to its default."""
    try:
        return functools.reduce(getattr, map(str, path), study)
    except AttributeError:
        return {}


def _stand_in(value: Any) -> YamlNode:
    if isinstance(value, dict):
        return YamlNode({key: _stand_in(child) for key, child in value.items()})
    return YamlNode([_stand_in(child) for child in value] if isinstance(value, list) else value)
