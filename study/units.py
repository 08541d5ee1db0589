"""Numbers as people read them: three digits and a unit."""

from __future__ import annotations

COUNT_UNITS = ("", "K", "M", "B", "T")
BYTE_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def count_text(number: float) -> str:
    """`47.4K`, `1.2M`, `108M`, `2.44B`; beyond 1e15 as `1.23e+16`."""
    return _scaled(number, COUNT_UNITS)


def bytes_text(number: float) -> str:
    """`512 B`, `48 kB`, `1.3 GB`, in powers of 1000."""
    return _scaled(number, tuple(f" {unit}" for unit in BYTE_UNITS))


def hours_text(hours: float) -> str:
    """`2 s`, `14 min`, `3.5 h`, `12,300 h`."""
    if hours < 1 / 60:
        return f"{hours * 3600:.2g} s"
    if hours < 1:
        return f"{hours * 60:.2g} min"
    return f"{hours:.3g} h" if hours < 1000 else f"{hours:,.0f} h"


def duration_text(seconds: float | None) -> str:
    """`45 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`; empty for None."""
    if seconds is None:
        return ""
    whole = max(0, round(seconds))
    for large, size, small, part in (
        ("d", 86_400, "h", 3_600),
        ("h", 3_600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if whole >= size:
            return f"{whole // size} {large} {whole % size // part} {small}"
    return f"{whole} s"


def _scaled(number: float, units: tuple[str, ...]) -> str:
    index = 0
    while float(f"{number:.3g}") >= 1000 and index < len(units) - 1:
        number /= 1000
        index += 1
    return f"{number:.3g}{units[index]}"
