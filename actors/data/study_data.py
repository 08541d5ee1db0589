"""The data of one study: what it was first trained on, and nothing else from then on.

At a study's first step its data are recorded (`study.store.training_data`). Prepared data that are
there are used whatever became of the corpus; where they are gone they are made again, if the
sources still give the same. A study that had begun before data were recorded is adopted once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparsing.actors.data.prepare import Identities, Progress, identify, precheck, prepare
from sparsing.actors.data.prepared import PreparedData, open_prepared
from sparsing.actors.data.sources.identity import Identity, digest_of
from sparsing.study.definition.model import Study
from sparsing.study.errors import DefinitionError, NotFoundError, SparsingError
from sparsing.study.plan.runs import plan_runs
from sparsing.study.store.study_store import StudyStore
from sparsing.study.store.training_data import (
    FOLDER,
    METADATA,
    DomainData,
    TrainingData,
    content_digest,
    epoch_warnings,
    read_files,
    read_record,
    write_record,
)

RUN = "data"
"""The run of rows that belong to no run."""
NAMED_CHANGES = 5
"""Changed files that a message names; more are only counted."""


def create_store(root: Path, study: Study) -> StudyStore:
    """The study's folder in the store `root`, made where it is not there yet.

    Raises DefinitionError, and leaves no study behind, where a new study's data cannot be had.
    """
    if not (root / study.study_id).exists():
        precheck(study.data)
    return StudyStore.create(root, study)


def data_of_study(
    store: StudyStore,
    say: Progress,
    workers: int | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> PreparedData:
    """The data that a study trains on, prepared and recorded where they are not yet.

    `workers`: tasks at a time, where this process is connected to Ray. `stopping` is asked after
    each part whether to stop, with StoppedError.

    Raises:
        DefinitionError: a source is not as needed; or the prepared data are gone and the sources
            no longer give the same, with what changed.
        SparsingError: the prepared data are damaged, or not those of the record.
    """
    data = _found(store, say, workers, stopping)
    record = read_record(store.path)
    assert record is not None
    for line in epoch_lines(store, record):
        say(line)
    return data


def _found(
    store: StudyStore, say: Progress, workers: int | None, stopping: Callable[[], bool]
) -> PreparedData:
    record = read_record(store.path)
    if record is None and has_begun(store):
        data = _adoptable(store)
        _record(store, data, None, adopted=True)
        say(f"data: {data.path.name} is recorded as what this study was trained on")
        return data
    if record is None:
        found = identify(store.study.data)
        data = _prepare(store, say, found, workers, stopping)
        _record(store, data, found, adopted=False)
        return data
    if (_root(store) / record.prepared).exists():
        return recorded_data(store, record)
    return _made_again(store, record, say, workers, stopping)


def recorded_data(store: StudyStore, record: TrainingData) -> PreparedData:
    """The prepared data of a record.

    Raises NotFoundError where they are gone, SparsingError where other data are in their place.
    """
    data = open_prepared(_root(store) / record.prepared)
    _compare(store, record, data)
    return data


def prepared_of(store: StudyStore) -> PreparedData:
    """The prepared data of a study, which need not have its sources any more.

    Raises:
        NotFoundError: they are not beside the store's studies.
        DefinitionError: it began before data were recorded, and several data sets may be its.
    """
    record = read_record(store.path)
    return recorded_data(store, record) if record else _adoptable(store)


def has_begun(store: StudyStore) -> bool:
    """Whether a run of the study has made a step."""
    return bool(store.runs_present("steps") or store.runs_present("checkpoints"))


def epoch_lines(store: StudyStore, record: TrainingData) -> list[str]:
    """Tokens and epochs of each domain, over the study's runs, and warnings above one epoch."""
    runs = plan_runs(store.study)
    fewest, most = (record.epochs(f(run.tokens for run in runs)) for f in (min, max))
    lines = [
        f"data {name}: {domain.train_tokens:,} training tokens, "
        + (
            f"{most[name]:.2f} epochs"
            if fewest == most
            else f"{fewest[name]:.2f} to {most[name]:.2f} epochs"
        )
        for name, domain in record.domains.items()
    ]
    return lines + [f"warning: {line}" for line in epoch_warnings(record, runs)]


def _root(store: StudyStore) -> Path:
    return store.path.parent / FOLDER


def _record(
    store: StudyStore,
    data: PreparedData,
    found: Identities | None,
    *,
    adopted: bool,
) -> None:
    domains = data.metadata["domains"]
    record = TrainingData(
        prepared=data.path.name,
        content=content_digest(data.metadata),
        tokenizer_fingerprint=data.metadata["tokenizer_fingerprint"],
        vocabulary_size=data.vocabulary_size,
        sequence_tokens=data.sequence_tokens,
        adopted=adopted,
        domains={
            name: DomainData(
                weight=about["weight"],
                train_tokens=about["train_tokens"],
                documents=about["documents"],
                bytes=about["bytes"],
                source=about.get("source"),
                files=about.get("source_files"),
            )
            for name, about in domains.items()
        },
    )
    write_record(store.path, record, found)


def _adoptable(store: StudyStore) -> PreparedData:
    """The prepared data of a study from before data were recorded."""
    root, wanted = _root(store), store.study.data.model_dump(mode="json")
    found = [
        each
        for path in sorted(root.glob(f"*/{METADATA}"))
        if (each := open_prepared(path.parent)).metadata["definition"] == wanted
    ]
    if len(found) > 1:
        names = ", ".join(each.path.name for each in found)
        raise DefinitionError(
            f"{root} holds several data sets of study {store.study_id} ({names}), made of sources "
            "that changed meanwhile; remove those it was not trained on"
        )
    if not found:
        raise NotFoundError(
            f"{root} holds no data of study {store.study_id}, which began before its data were "
            "recorded: put them back, or give the study another name to begin anew"
        )
    return found[0]


def _prepare(
    store: StudyStore,
    say: Progress,
    found: Identities,
    workers: int | None,
    stopping: Callable[[], bool],
) -> PreparedData:
    """Prepare, with rows of the table `preparation`."""
    earlier = store.scan("preparation", RUN).select("attempt").collect()["attempt"].to_list()
    with store.writer("preparation", run=RUN, attempt=max(earlier, default=0) + 1) as writer:

        def rows(now: list[dict[str, Any]]) -> None:
            writer.append(writer.next_seq, [{"step": 0} | row for row in now])
            writer.flush()

        return prepare(
            store.study,
            _root(store),
            say,
            known=found,
            workers=workers,
            rows=rows,
            stopping=stopping,
        )


def _made_again(
    store: StudyStore,
    record: TrainingData,
    say: Progress,
    workers: int | None,
    stopping: Callable[[], bool],
) -> PreparedData:
    found = identify(store.study.data)
    _refuse_changes(store, record, found)
    say(f"data: {record.prepared} is gone, and made again from the same sources")
    data = _prepare(store, say, found, workers, stopping)
    _compare(store, record, data)
    return data


def _refuse_changes(store: StudyStore, record: TrainingData, found: Identities) -> None:
    """DefinitionError, which says what changed, where sources are not those of the record."""
    before = read_files(store.path) or {}
    problems = [
        f"data.domains.{name}: its source changed since: "
        + _changes(before.get(name, []), found.get(name, []))
        for name, domain in record.domains.items()
        if domain.source is not None and domain.source != digest_of(found.get(name, []))
    ]
    if problems:
        raise DefinitionError(
            f"the data that {store.study_id} was trained on are gone "
            f"({_root(store) / record.prepared}), and cannot be made again:\n"
            + "\n".join(problems)
            + "\nput the data or the sources back, or give the study another name to begin anew"
        )


def _changes(before: list[tuple[str, int, str]], now: list[Identity]) -> str:
    old = {name: (size, digest) for name, size, digest in before}
    new = {name: (size, digest) for name, size, digest in now}
    changes = [f"{name} changed" for name in old if name in new and new[name] != old[name]]
    changes += [f"{name} is gone" for name in old if name not in new]
    changes += [f"{name} is new" for name in new if name not in old]
    more = len(changes) - NAMED_CHANGES
    listed = ", ".join(changes[:NAMED_CHANGES]) or "the order of its files"
    return listed + (f" and {more} more" if more > 0 else "")


def _compare(store: StudyStore, record: TrainingData, data: PreparedData) -> None:
    """SparsingError where prepared data are not those of the record."""
    fingerprint = data.metadata["tokenizer_fingerprint"]
    if fingerprint != record.tokenizer_fingerprint:
        what = f"another tokenizer ({fingerprint[:8]}, not {record.tokenizer_fingerprint[:8]})"
    elif content_digest(data.metadata) != record.content:
        what = "other tokens"
    else:
        return
    raise SparsingError(
        f"{data.path} holds {what} than {store.study_id} was trained on, so the study cannot go "
        "on with it; put the data back as they were, or give the study another name to begin anew"
    )
