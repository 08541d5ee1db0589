"""Products in SQL as floating point: polars' integers would wrap to a wrong number in silence.

A query is rewritten before polars sees it: `a * b` becomes `a * 1e0 * b`, `SUM(a)` becomes
`SUM(CAST(a AS DOUBLE))`, and so do sums over windows and powers. Names of columns stay, for polars
takes them from the left. Sums and differences of two integers of the store cannot leave 64 bits.
"""

from __future__ import annotations

import re

TOKEN = re.compile(
    r"(?P<blank>\s+|--[^\n]*|/\*.*?\*/)|(?P<quoted>'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\")"
    r"|(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)|(?P<word>[^\W\d]\w*)|(?P<sign>.)",
    re.DOTALL,
)
SUMMED = ("sum", "pow", "power", "cumsum")
"""Functions whose first argument is made floating point."""
CLAUSES = (
    "select distinct all where and or not on having by case when then else in between like "
    "limit offset from join using is as union except intersect over partition filter"
)
NO_OPERAND = frozenset(CLAUSES.split())
"""Words after which a star is no product."""
Token = tuple[str, str]
"""Kind and text."""


def as_floats(sql: str) -> str:
    """The query with products, sums and powers as floating point; the same where it has none."""
    tokens = [(match.lastgroup or "", match.group()) for match in TOKEN.finditer(sql)]
    before: dict[int, str] = {}
    """What is put before a token."""
    for at, (kind, text) in enumerate(tokens):
        if kind == "sign" and text == "*" and _is_product(tokens, at):
            before[at + 1] = " 1e0 *"
        if text == "(" and _before(tokens, at)[1].lower() in SUMMED:
            start = _after_distinct(tokens, at + 1)
            end = _argument_end(tokens, start)
            if end is not None:
                before[start] = before.get(start, "") + " CAST("
                before[end] = before.get(end, "") + " AS DOUBLE)"
    return "".join(before.get(at, "") + text for at, (_, text) in enumerate(tokens))


def _is_product(tokens: list[Token], at: int) -> bool:
    """Whether a star stands between two operands: not in `COUNT(*)`, `SELECT *` or `t.*`."""
    kind, text = _before(tokens, at)
    left = kind in ("number", "quoted") or text == ")"
    left |= kind == "word" and text.lower() not in NO_OPERAND
    after, word = next((t for t in tokens[at + 1 :] if t[0] != "blank"), ("", ""))
    right = after in ("number", "quoted") or word in ("(", "-", "+")
    right |= after == "word" and word.lower() not in (*NO_OPERAND, "exclude", "replace", "rename")
    return left and (right or word.lower() in ("case", "not"))


def _before(tokens: list[Token], at: int) -> Token:
    return next((token for token in reversed(tokens[:at]) if token[0] != "blank"), ("", ""))


def _after_distinct(tokens: list[Token], at: int) -> int:
    for start in range(at, len(tokens)):
        if tokens[start][0] != "blank":
            return start + 1 if tokens[start][1].lower() == "distinct" else at
    return at


def _argument_end(tokens: list[Token], start: int) -> int | None:
    """Index of the comma or parenthesis that ends the argument; None where nothing does."""
    depth = 0
    for at in range(start, len(tokens)):
        text = tokens[at][1] if tokens[at][0] == "sign" else ""
        if depth == 0 and text in (")", ","):
            return at
        depth += (text == "(") - (text == ")")
    return None
