"""`sparsing.plan`, `run`, `submit`, `measure`: what does something, or says what it would take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsing.api.results import Measurements, ParetoCurves, Planned
from sparsing.api.studies import OpenStudy, store_root
from sparsing.study.definition.load import load_study, read_study
from sparsing.study.definition.model import Study
from sparsing.study.errors import RunsFailedError
from sparsing.study.plan.runs import plan as make_plan
from sparsing.study.store.study_store import StudyStore, need_folder

if TYPE_CHECKING:
    from sparsing.actors.orchestration.cluster.submission import Submission

Definition = str | Path | Mapping[str, Any] | Study
"""A file, the name of a preset, a mapping with the keys of a file, or a definition itself."""


def plan(study: Definition, utilization: float = 0.4) -> Planned:
    """The runs of a definition and what they cost; changes nothing.

    Args:
        study: file, preset, mapping or definition.
        utilization: share of an A800's peak that is reached.

    Raises:
        DefinitionError: the definition is wrong; all its problems at once.
        NotFoundError: there is no such file or preset.
    """
    return Planned(make_plan(definition_of(study), utilization=utilization))


def run(
    study: Definition,
    store: str | Path | None = None,
    *,
    address: str | None = None,
    metrics_port: int = 0,
) -> OpenStudy:
    """Train, measure and fit a study, with progress on stderr; returns when it has ended.

    A study that was interrupted goes on; of a finished one nothing is trained again.

    Args:
        study: file, preset, mapping or definition.
        store: root of the store, a folder; by default SPARSING_STORE, else ./sparsing-store.
        address: of a Ray cluster; by default Ray in this process.
        metrics_port: of the law service on loopback; 0 chooses a free one.

    Raises:
        RunsFailedError: some of its runs failed; `fields` has their reasons.
        SparsingError: Ray or the store failed; the same call again goes on.
    """
    from sparsing.actors.orchestration.running import run_study

    made = StudyStore.create(need_folder(store_root(store)), definition_of(study))
    failed = run_study(made, address, metrics_port)
    if failed:
        listed = "\n".join(f"  {name}: {reason}" for name, reason in failed.items())
        raise RunsFailedError(
            f"{len(failed)} runs failed; the same call again tries them again\n{listed}",
            runs=failed,
        )
    return OpenStudy(made)


def submit(study: Definition, address: str, store: str | Path | None = None) -> Submission:
    """Hand a study to a Ray cluster, and return at once.

    Args:
        study: file, preset, mapping or definition.
        address: the cluster's dashboard, `http://head:8265`.
        store: root of the store, a folder, by the path that the cluster's nodes see it at.

    Raises:
        NotFoundError: no cluster answers there.
    """
    from sparsing.actors.orchestration.cluster.submission import hand_over

    return hand_over(definition_of(study), store_root(store), address)


def measure(
    path: str | Path | Sequence[str | Path],
    data: str | Sequence[str] = (),
    *,
    metric: str = "cett_ppl",
    tokens: int | None = None,
    sequence_tokens: int | None = None,
    field: str = "text",
    precision: float | None = None,
    **parameter: float,
) -> Measurements:
    """Measure the activation sparsity of a model, or of several on the same text.

    Args:
        path: a checkpoint of a study, or a Hugging Face causal model with a gated FFN; of several
            the CETT value is searched together.
        data: files of text, `FILE` or `NAME=FILE`; by default the checkpoint's validation data.
        metric: `cett_ppl`, `cett`, `topk`, `fat` or `relu`.
        tokens: tokens to use at most, to choose and to report together.
        sequence_tokens: tokens of a sequence.
        field: key or column of the text in the files.
        precision: take more text until half the 95 % interval is this share of the ratio.
        parameter: the metric's: `p`, `cett`, `k` or `eps`.

    Raises:
        PrecisionError: the text ran out before; its field `measurements` has what was reached.
        NotFoundError, DefinitionError, SparsingError: the model or the text is not there, does not
            fit, or is damaged.
    """
    from sparsing.actors.measuring.requests.measure_folders import Asked, measure_folders, metric_of

    asked = Asked(data=_listed(data), tokens=tokens, sequence_tokens=sequence_tokens, field=field)
    done = measure_folders(_paths(path), metric_of(metric, **parameter), asked, precision)
    found = Measurements(done)
    if done.shortfall:
        done.shortfall.fields["measurements"] = found
        raise done.shortfall
    return found


def pareto(
    path: str | Path | Sequence[str | Path],
    data: str | Sequence[str] = (),
    *,
    tokens: int | None = None,
    sequence_tokens: int | None = None,
    field: str = "text",
) -> ParetoCurves:
    """Perplexity against activation ratio, for all ways of choosing weak neurons.

    Args:
        path, data, tokens, sequence_tokens, field: as for `measure`.
    """
    from sparsing.actors.measuring.requests.measure_folders import Asked, pareto_of_folders

    asked = Asked(data=_listed(data), tokens=tokens, sequence_tokens=sequence_tokens, field=field)
    models, curves, _ = pareto_of_folders(_paths(path), asked)
    return ParetoCurves([model.path.name for model in models], curves)


def definition_of(study: Definition) -> Study:
    """The definition that is meant.

    Raises:
        DefinitionError, NotFoundError: as `plan`.
    """
    if isinstance(study, Study):
        return study
    if isinstance(study, Mapping):
        return read_study(study)
    return load_study(str(study))


def _paths(path: str | Path | Sequence[str | Path]) -> list[Path]:
    return [Path(path)] if isinstance(path, str | Path) else [Path(each) for each in path]


def _listed(data: str | Sequence[str]) -> list[str]:
    return [data] if isinstance(data, str) else [str(each) for each in data]
