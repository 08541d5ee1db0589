"""The study definition: one pydantic model, read from YAML with the place of every value."""

from sparsing.study.definition.model import Study

__all__ = ["Study"]
