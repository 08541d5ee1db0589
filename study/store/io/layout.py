"""Where a run's files of a table are: `tables/<table>/<run>/`.

Versions up to 0.1 wrote `tables/<table>/run=<run>/`. There is a column `run` in the files too, and
pandas and pyarrow, who read `run=` as a partition key of another type, could not open the folder of
a table. Such folders are read as they are, and renamed when the table is written to. On an object
store, where nothing can be renamed, a table goes on as it began.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from sparsing.study.errors import DamagedError
from sparsing.study.store.io.durable import IDENTIFIER, check_identifier, sync_folder
from sparsing.study.store.io.objects import ObjectPath, Place

OLD_PREFIX = "run="


def partition_parts(table: str, run: str) -> tuple[str, str, str]:
    """Where a run's files of a table are to be, below the study's folder."""
    return "tables", table, check_identifier(run, "id of a run")


def partition_place(study: Place, table: str, run: str) -> Place:
    """Where a run's files of a table are, or would be if there were any."""
    new = study.joinpath(*partition_parts(table, run))
    if isinstance(new, ObjectPath):
        return partition_places(study, table, [run])[run]
    old = new.with_name(f"{OLD_PREFIX}{run}")
    return old if old.is_dir() else new


def partition_places(
    study: Place, table: str, runs: Sequence[str] | None = None
) -> dict[str, Place]:
    """Where the files of each run of a table are, in the order of the runs' ids.

    With `runs`, of those, in their order, whether there is anything or not. Raises DamagedError
    where a run has two folders.
    """
    folder = study.joinpath("tables", table)
    found: dict[str, Place] = {}
    for name in _below(folder):
        run = name.removeprefix(OLD_PREFIX)
        if IDENTIFIER.fullmatch(run):
            if run in found:
                raise _two_folders(folder / name, found[run])
            found[run] = folder / name
    if runs is None:
        return dict(sorted(found.items()))
    old = isinstance(folder, ObjectPath) and any(has_old_name(place) for place in found.values())
    prefix = OLD_PREFIX if old else ""
    return {
        run: found.get(run, folder / f"{prefix}{check_identifier(run, 'id of a run')}")
        for run in runs
    }


def old_folders(study: Path, table: str) -> list[Path]:
    """Folders of runs that have the name of earlier versions."""
    folder = study / "tables" / table
    names = sorted(name for name in _below(folder) if name.startswith(OLD_PREFIX))
    return [folder / name for name in names if IDENTIFIER.fullmatch(name[len(OLD_PREFIX) :])]


def rename_old(study: Path, table: str) -> list[Path]:
    """Give a table's folders of earlier versions their name of today; those that were renamed.

    Raises DamagedError where a folder of that name is there as well.
    """
    renamed = []
    for old in old_folders(study, table):
        new = old.with_name(old.name.removeprefix(OLD_PREFIX))
        try:
            os.rename(old, new)
        except FileNotFoundError:  # another process was quicker
            continue
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise _two_folders(old, new) from error
            raise
        renamed.append(new)
    if renamed:
        sync_folder(study / "tables" / table)
    return renamed


def has_old_name(folder: Place) -> bool:
    """Whether a folder has its name of earlier versions: it may be renamed at any time."""
    return folder.name.startswith(OLD_PREFIX)


def _two_folders(one: Place, other: Place) -> DamagedError:
    return DamagedError(
        f"{one} and {other}: an earlier version of sparsing wrote to a store of a newer one; move "
        "the one of them away that has fewer rows, and let all machines have the same version"
    )


def _below(folder: Place) -> list[str]:
    """Names of the folders in a folder, and of files where it is one on disk."""
    if isinstance(folder, ObjectPath):
        return folder.list()[1]
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
