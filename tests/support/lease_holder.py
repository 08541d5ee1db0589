"""A process that wants a lease, and while it holds it writes lines `token time` to a file.

The time is that just before the check: what is written a moment later may come late, if the process
is stopped between the two, which no lease can prevent.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from sparsing.study.errors import FencedError, SparsingError
from sparsing.study.store.control.lease import Lease, acquire
from sparsing.study.store.io.cells import FolderCell


def write_while_held(lease: Lease, file: Path, seconds: float) -> None:
    """Append a line after each check, until the lease is lost or the time is over."""
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            before = time.monotonic()
            lease.check()
            with file.open("a") as lines:
                lines.write(f"{lease.token} {before}\n")
            time.sleep(0.005)
    except FencedError:
        print(f"fenced {lease.token}", flush=True)


def main() -> None:
    """Arguments: the cell's folder, the file, the lease's seconds, seconds to write."""
    folder, file, span, seconds = sys.argv[1:]
    while True:
        try:
            lease = acquire(FolderCell(Path(folder), "lease"), float(span))
            break
        except SparsingError:
            time.sleep(0.01)
    print(f"holds {lease.token}", flush=True)
    write_while_held(lease, Path(file), float(seconds))
    lease.release()


if __name__ == "__main__":
    main()
