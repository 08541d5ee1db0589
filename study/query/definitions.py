"""A definition by the name that a user gives it: a study of the store, a file or a preset."""

from __future__ import annotations

from sparsing.study.definition.load import load_study
from sparsing.study.definition.model import Study
from sparsing.study.errors import NotFoundError
from sparsing.study.store.study_store import StudyStore


def definition_named(root: str, name: str) -> Study:
    """The definition of a study of the store, else of a file or preset.

    Raises:
        NotFoundError: none of them is there.
        DefinitionError: several studies fit, or the file's definition is wrong.
    """
    if name.endswith((".yaml", ".yml")):
        return load_study(name)
    try:
        return StudyStore.open(root, name).study
    except NotFoundError as missing:
        try:
            return load_study(name)
        except NotFoundError:
            raise missing from None
