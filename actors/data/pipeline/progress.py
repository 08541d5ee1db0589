"""How far a preparation is: by domain, in lines for people and rows for the store."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sparsing.study.errors import SparsingError
from sparsing.study.units import bytes_text, count_text

LINE_SECONDS = 10.0
BYTES_PER_SECOND = 2e6
"""Of a worker that tokenizes with BPE, for the first estimate: half a million tokens of 4 bytes."""
TOLD_BYTES = 64 * 2**20
"""From so much on an estimate is worth a line."""

Rows = Callable[[list[dict[str, Any]]], None]


@dataclass
class DomainProgress:
    """A domain's preparation, up to now."""

    total_bytes: int = 0
    """Of its files."""
    bytes: int = 0
    documents: int = 0
    tokens: int = 0
    parts_tokenized: int = 0


class StoppedError(SparsingError):
    """A preparation was asked to stop; what is finished is kept."""


class Meter:
    """Counts parts as they are done, and says so at times."""

    def __init__(
        self,
        say: Callable[[str], None],
        rows: Rows | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """Say lines; `rows` gets a row for each domain as often; `stopping` ends it."""
        self.say, self._rows, self._stopping = say, rows, stopping
        self.domains: dict[str, DomainProgress] = {}
        self._began = self._told = time.monotonic()
        self._workers = 1

    def begin(self, totals: dict[str, int], workers: int) -> None:
        """The main part begins: bytes of each domain's files."""
        self._began = self._told = time.monotonic()
        self._workers = workers
        self.domains = {name: DomainProgress(total_bytes=size) for name, size in totals.items()}
        size = sum(totals.values())
        if size < TOLD_BYTES:
            for name, total in totals.items():
                self.say(f"{name}: tokenizing {total / 1e6:.1f} MB, deduplicating")
            return
        hours = size / (BYTES_PER_SECOND * workers) / 3600
        about = f"{hours:.1f} h" if hours >= 1 else f"{max(1, round(hours * 60))} min"
        self.say(
            f"tokenizing {bytes_text(size)} in {len(totals)} domains on {workers} workers: "
            f"about {about} (calculated, for {BYTES_PER_SECOND / 1e6:g} MB/s each)"
        )

    def add(self, name: str, part: Any) -> None:
        """A part is done. Raises StoppedError where it is to be the last."""
        if self._stopping():
            raise StoppedError("the preparation was stopped; the same command again goes on")
        domain = self.domains[name]
        domain.bytes += part.size
        domain.documents += part.tokens.documents
        domain.tokens += part.tokens.tokens
        domain.parts_tokenized += part.tokenized
        if time.monotonic() - self._told >= LINE_SECONDS or self._is_last():
            self.tell()

    def _is_last(self) -> bool:
        return all(domain.bytes >= domain.total_bytes for domain in self.domains.values())

    def tell(self) -> None:
        """Say where each domain stands."""
        self._told = time.monotonic()
        seconds = max(1e-9, self._told - self._began)
        done = sum(domain.bytes for domain in self.domains.values())
        total = sum(domain.total_bytes for domain in self.domains.values())
        left = (total - done) * seconds / max(1, done)
        if total >= TOLD_BYTES:
            for name, domain in self.domains.items():
                self.say(
                    f"{name}: {domain.bytes / max(1, domain.total_bytes):.0%} of "
                    f"{bytes_text(domain.total_bytes)}, {domain.documents:,} documents, "
                    f"{count_text(domain.tokens)} tokens, {domain.bytes / 1e6 / seconds:.1f} MB/s, "
                    f"{left / 60:.0f} min left"
                )
        if self._rows:
            self._rows(
                [
                    {
                        "domain": name,
                        "bytes": domain.bytes,
                        "bytes_total": domain.total_bytes,
                        "documents": domain.documents,
                        "tokens": domain.tokens,
                        "bytes_per_second": domain.bytes / seconds,
                        "eta_seconds": left,
                        "workers": self._workers,
                    }
                    for name, domain in self.domains.items()
                ]
            )
