"""The kinds of values in a study definition: counts as people write them, names, alternatives.

Each kind says what is allowed, so that `definition.wording` can tell it to the user, and what the
JSON Schema says about it.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from sparsing.registry import ACTIVATIONS
from sparsing.study.errors import DefinitionError

COUNT_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
COUNT_PATTERN = re.compile(r"^\s*(\d+(?:\.\d+)?(?:[eE]\+?\d+)?)\s*([KMBT]?)\s*$")
DURATION_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DURATION_PATTERN = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([smhd])\s*$")
MAX_COUNT = 10**18
"""Larger counts fit no table column (int64), nor any machine."""


def parse_count(value: Any) -> Any:
    """An integer from `27M`, `1.5B`, `8e11`, `1_000` or a whole float; others pass unchanged."""
    number = Decimal(value) if isinstance(value, float) and math.isfinite(value) else None
    if isinstance(value, str) and (match := COUNT_PATTERN.match(value.replace("_", ""))):
        number = Decimal(match[1]) * COUNT_UNITS[match[2]]
    if number is not None and abs(number) <= MAX_COUNT and number == int(number):
        return int(number)
    return value


def parse_duration(value: Any) -> Any:
    """Seconds from `90s`, `30m`, `2h`, `1d` or a number; others pass unchanged."""
    if isinstance(value, str) and (match := DURATION_PATTERN.match(value)):
        return float(match[1]) * DURATION_UNITS[match[2]]
    return float(value) if type(value) is int else value


_WRITTEN_COUNT = Annotated[str, Field(pattern=COUNT_PATTERN.pattern)]
Count = Annotated[
    int,
    BeforeValidator(parse_count, json_schema_input_type=int | float | _WRITTEN_COUNT),
    Field(le=MAX_COUNT),
]
_WRITTEN_DURATION = Annotated[str, Field(pattern=DURATION_PATTERN.pattern)]
Duration = Annotated[
    float,
    BeforeValidator(parse_duration, json_schema_input_type=float | _WRITTEN_DURATION),
    Field(gt=0, le=1e9),
]
"""Seconds; may be written `30m`."""
if TYPE_CHECKING:
    Activation = str
else:
    Activation = Literal[tuple(ACTIVATIONS)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,47}$")]
ScaleName = Annotated[str, Field(pattern=r"^\d{1,6}(\.\d{1,6})?[KMB]$")]
Ratio = Annotated[float, Field(gt=0, le=100_000)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class Model(BaseModel):
    """Base of all parts: unknown keys are errors, values do not change after validation."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


def token_count(text: str | float, said: str) -> int:
    """Tokens as a number, or as written for people, `8e11` or `800B`, above 0.

    `said`: how the text was given, for the message. Raises DefinitionError.
    """
    tokens = parse_count(text)
    if not isinstance(tokens, int) or tokens <= 0:
        raise DefinitionError(f"{said}: a count above 0 is needed, as 8e11 or 800B")
    return tokens


def text_or_structure(value: Any) -> str:
    """Which alternative a value means, so that errors speak of that one only."""
    return "text" if isinstance(value, str) else "structure"


def number_or_structure(value: Any) -> str:
    """As `text_or_structure`; text such as `27M` is a number."""
    return "structure" if isinstance(value, dict) else "number"


def problem(message: str, *keys: str) -> PydanticCustomError:
    """A validator's complaint about a whole part, naming the keys on which it rests.

    `study.definition.reading` keeps silent about it when one of these keys is wrong itself.
    """
    return PydanticCustomError("study", "{message}", {"message": message, "keys": keys})
