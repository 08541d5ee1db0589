"""`sparsing store`: check, repair and compact the tables of a study, prune its checkpoints."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from sparsing.study.commands.group import Group
from sparsing.study.commands.options import store_option
from sparsing.study.errors import DamagedError, NotFoundError

if TYPE_CHECKING:
    from sparsing.study.store.care.check import Report
    from sparsing.study.store.study_store import StudyStore


@click.group(cls=Group)
def store() -> None:
    """Check, repair and compact the result store; remove checkpoints.

    \b
    Examples:
      sparsing store check quickstart
      sparsing store repair quickstart
      sparsing store compact quickstart
      sparsing store prune quickstart --dry-run
    """


@store.command()
@click.argument("study")
@store_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def check(study: str, root: str, as_json: bool) -> None:
    """Verify every promise on STUDY's tables and checkpoints; changes nothing.

    Reads every byte: digests of segments and checkpoints, checksums of logs, sequence numbers that
    are there twice, generations and checkpoints that are missing, files that no reader looks at.
    Shows what each table occupies.
    Exit code 4 when there is damage.

    \b
    Examples:
      sparsing store check quickstart
      sparsing store check quickstart --json
    """
    from rich.console import Console
    from rich.progress import Progress

    from sparsing.study.store.care.check import check_store
    from sparsing.study.store.care.check_checkpoints import checkpoint_bytes
    from sparsing.study.store.study_store import StudyStore

    opened = StudyStore.open(root, study)
    size = checkpoint_bytes(opened)
    with Progress(
        *Progress.get_default_columns(), console=Console(stderr=True), disable=as_json
    ) as bar:
        task = bar.add_task("verifying checkpoints", total=size)
        report = check_store(opened, lambda read: bar.advance(task, read))
    if as_json:
        click.echo(_as_json(opened, report))
    else:
        _show(report)
    if report.damage:
        raise DamagedError(
            f"{len(report.damage)} of the findings break a promise; `sparsing store repair {study}`"
        )


def _as_json(opened: StudyStore, report: Report) -> str:
    findings = [asdict(f) | {"damage": f.is_damage} for f in report.findings]
    sizes = {table: asdict(size) for table, size in report.sizes.items()}
    return json.dumps({"study": opened.study_id, "findings": findings, "tables": sizes})


def _show(report: Report) -> None:
    from sparsing.study.display.table import show, table

    columns = ("runs", "segments", "logs", "rows", "MB", "MB in the last day")
    shown = table(("table", *columns), right=columns)
    for name, size in report.sizes.items():
        counts = (size.runs, size.segments, size.logs, size.rows)
        sizes = (f"{size.bytes / 1e6:.3f}", f"{size.bytes_last_day / 1e6:.3f}")
        shown.add(name, *map(str, counts), *sizes)
    show(shown)
    for finding in report.findings:
        click.echo(f"{finding.kind}: {finding.path}: {finding.detail}")
    if not report.damage:
        click.echo("all promises are kept")


@store.command()
@click.argument("study")
@store_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def repair(study: str, root: str, as_json: bool) -> None:
    """Heal what can be healed in STUDY's tables; nothing is deleted.

    Damaged files, and those that a killed writer or compaction left, are moved to
    `.removed/<time>/` in the study's folder. Where rows are lost, an empty segment stands for them.

    \b
    Example:
      sparsing store repair quickstart
    """
    from sparsing.study.store.care.check import check_store
    from sparsing.study.store.care.repair import repair_store
    from sparsing.study.store.study_store import StudyStore

    opened = StudyStore.open(root, study)
    done = repair_store(opened)
    left = check_store(opened).damage
    if as_json:
        document = {"study": opened.study_id, "done": done, "left": [asdict(f) for f in left]}
        click.echo(json.dumps(document))
    else:
        click.echo("\n".join(done) if done else "nothing to repair")
    if left:
        said = "; ".join(f"{f.path}: {f.detail}" for f in left)
        raise DamagedError(f"this cannot be healed: {said}")


@store.command()
@click.argument("study")
@store_option
@click.option("--run", "runs", multiple=True, help="Only this run, ended or not; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def compact(study: str, root: str, runs: tuple[str, ...], as_json: bool) -> None:
    """Make one Parquet file of each stream of STUDY's runs that have ended.

    Changes no answer of ours. A reader by glob that has listed files before may miss one and has to
    list again; therefore not for runs that go on.

    \b
    Examples:
      sparsing store compact quickstart
      sparsing store compact quickstart --run relu-d8x2-wd4-s0
    """
    from rich.console import Console
    from rich.progress import track

    from sparsing.study.store.study_store import StudyStore
    from sparsing.study.store.tables import TABLES

    opened = StudyStore.open(root, study)
    chosen = list(runs) or _ended(opened)
    unknown = set(chosen).difference(*(opened.runs_present(table) for table in TABLES))
    if unknown:
        there = sorted({run for table in TABLES for run in opened.runs_present(table)})
        raise NotFoundError(f"no run {', '.join(sorted(unknown))}; there are: {', '.join(there)}")
    before = _files(opened)
    for run in track(chosen, "compacting", console=Console(stderr=True), disable=as_json):
        opened.seal(run)
    counts = {"runs": len(chosen), "files_before": before, "files_after": _files(opened)}
    if as_json:
        click.echo(json.dumps({"study": opened.study_id} | counts))
    else:
        click.echo(f"{len(chosen)} runs: {before} files became {counts['files_after']}")


@store.command("prune")
@click.argument("study")
@store_option
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def prune_checkpoints(study: str, root: str, dry_run: bool, as_json: bool) -> None:
    """Remove checkpoints of STUDY's runs that are done, but for those its CETT value stands on.

    Those stay that the stabilizing strategy searched (measurement.stabilizing_checkpoints), and the
    newest. All measurements of the others are in the store; to measure them otherwise, they have to
    be trained again. `resources.keep_checkpoints: last` does this as runs end.

    \b
    Examples:
      sparsing store prune quickstart --dry-run
      sparsing store prune quickstart
    """
    from sparsing.study.status.prune import prune
    from sparsing.study.store.study_store import StudyStore

    opened = StudyStore.open(root, study)
    removed = prune(opened, dry_run=dry_run)
    if as_json:
        document = {"study": opened.study_id, "removed": [asdict(each) for each in removed]}
        click.echo(json.dumps(document))
        return
    for each in removed:
        if each.leads_to:
            path = f"{each.run}/step-{each.step:09d}"
            click.echo(f"{path} is a link: {each.leads_to} is left as it is")
    size = sum(each.bytes for each in removed)
    verb = "would be removed" if dry_run else "were removed"
    click.echo(f"{len(removed)} checkpoints, {size / 1e9:.3f} GB, {verb}")


def _ended(opened: StudyStore) -> list[str]:
    """Runs whose newest state says that nothing more comes."""
    from sparsing.study.status.study_status import ENDED, newest_states

    return sorted(run for run, row in newest_states(opened).items() if row["state"] in ENDED)


def _files(opened: StudyStore) -> int:
    from sparsing.study.store.tables import TABLES

    return sum(len(state) for table in TABLES for state in opened.states(table).values())
