"""The report of a study: one self-contained HTML file with plots, made from the store alone.

`sparsing report STUDY` writes it; `sparsing run` ends with it. No script, no external address;
light and dark, phone and print. The first figure alone, as in the README, is made by

    main_figure(StudyStore.open("sparsing-store", "quickstart")).savefig("quickstart.png", dpi=110)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from sparsing.analysis.figures import curves, detail
from sparsing.analysis.figures import pareto as weak
from sparsing.analysis.figures.catalogue import chosen
from sparsing.analysis.figures.data import NAMES, StudyData
from sparsing.analysis.figures.figure import MissingFigure
from sparsing.analysis.figures.style import StyleSheet, panel
from sparsing.analysis.forecasting.ledger import score, summary
from sparsing.analysis.report import tables
from sparsing.analysis.report.finding import finding
from sparsing.analysis.report.weak_neurons import ratios_table, weak_neurons
from sparsing.study.store.io import durable as commits
from sparsing.study.store.io.objects import Place
from sparsing.study.store.study_store import DEFINITION, StudyStore
from sparsing.study.units import count_text

REPORT = "report.html"


@dataclass(frozen=True)
class Section:
    """A part of the report: figures, a table, or the sentence that says what is not there yet."""

    anchor: str
    title: str
    about: str
    panels: list[Markup]
    table: tables.ReportTable | None = None
    missing: str = ""


def write_report(store: StudyStore) -> Place:
    """Write `report.html` into the study's folder, in one step; returns its path."""
    path = store.place / REPORT
    commits.replace(render_report(store).encode(), path)
    return path


def render_report(store: StudyStore) -> str:
    """The report as HTML."""
    data = StudyData.read(store)
    sheet = StyleSheet()
    sections = [
        replace(section, panels=[sheet.adopt(panel) for panel in section.panels])
        for section in _sections(data)
    ]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(REPORT).render(
        study=store.study,
        study_id=store.study_id,
        finding=finding(data),
        facts=_facts(data),
        unfinished=_unfinished(data),
        sections=sections,
        sheet=sheet,
        failures=tables.failures_table(data),
        definition=(store.place / DEFINITION).read_text("utf-8"),
        made_at=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )


def main_figure(store: StudyStore) -> Figure:
    """Activation ratio against tokens with the laws, a panel for each activation function."""
    return curves.main_figure_of(StudyData.read(store))


def _facts(data: StudyData) -> list[tuple[str, str]]:
    """Name and value of the few numbers at the top."""
    done = sum(run.status.state == "done" for run in data.runs)
    failed = sum(run.status.state == "failed" for run in data.runs)
    facts = [("runs done", f"{done} of {len(data.runs)}")]
    facts += [("runs failed", str(failed))] if failed else []
    facts.append(("tokens trained", count_text(sum(run.status.tokens for run in data.runs))))
    facts.append(
        ("points measured", str(sum(len(r.curve.tokens) for r in data.measured if r.curve)))
    )
    for activation, runs in data.by_activation().items():
        last = [run.curve.activation_ratio[-1] for run in runs if run.curve]
        facts.append((f"newest ratio, {NAMES[activation]}", tables.percent(min(last), max(last))))
    return facts


def _unfinished(data: StudyData) -> str:
    """How many runs are still to end, by state; empty when all have."""
    states = Counter(run.status.state for run in data.runs if not run.status.ended)
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    return f"The study is not at its end; runs still to end: {counts}." if states else ""


def _sections(data: StudyData) -> Iterator[Section]:
    yield _activation(data)
    yield _fits(data)
    yield _ledger(data)
    yield _loss(data)
    yield _layers(data)
    yield _neurons(data)
    yield _weak(data)
    yield Section(
        "measurements",
        "Newest measurements",
        "The newest measured checkpoint of each run, on the reporting half of the validation set; "
        "losses in nats per token.",
        [],
        tables.measurements_table(data),
    )
    yield from _axes(data)
    yield _paper(data)
    yield Section("data", "Data", tables.DATA_ABOUT, [], tables.data_table(data))
    yield Section("runs", "Runs", "", [], tables.runs_table(data))
    yield Section("versions", "Versions and machine", "", [], tables.versions_table(data))


def _activation(data: StudyData) -> Section:
    shown = list(data.by_activation().values())
    panels = [
        panel(
            partial(curves.draw_with_legend, data=data, runs=runs, limits=limits),
            f"Activation ratio against training tokens of the {runs[0].name} runs, with laws",
        )
        for runs, limits in zip(shown, curves.ratio_limits(shown), strict=True)
    ]
    about = (
        f"Share of active neurons (CETT-PPL-{data.store.study.measurement.p_percent:g} %, mean "
        "over layers) against training tokens; a thin line for each run, the fitted law with its "
        "95 % band."
    )
    if data.mark_every > 1:
        about += f" One point in {data.mark_every} is marked."
    missing = "" if panels else "No checkpoint has been measured yet."
    return Section("activation", "Activation ratio against tokens", about, panels, missing=missing)


def _fits(data: StudyData) -> Section:
    forms = {law.fit.law: law.fit.form for run in data.runs for law in run.laws}
    laws = "; ".join(f"{name}: {_unbroken(form.formula)}" for name, form in forms.items())
    about = (
        f"The newest fit of each run. {laws}, with D in billions of tokens. Brackets are 95 % "
        "intervals; a parameter is identified where its interval is closed on both sides."
    )
    return Section("fits", "Fits", about if forms else "", [], tables.fits_table(data))


def _ledger(data: StudyData) -> Section:
    found = score(data.store)
    about = f"What was told of the runs, and how it fared: {summary(found)}." if found else ""
    return Section("verdicts", "Earlier verdicts", about, [], tables.verdicts_table(found))


def _unbroken(formula: str) -> str:
    """A formula that stays on one line."""
    return formula.replace("-", "−").replace(" ", "\N{NO-BREAK SPACE}")


def _loss(data: StudyData) -> Section:
    panels = []
    if len(data.steps):
        draw = partial(curves.draw_training_loss, data=data)
        panels.append(panel(draw, "Training loss against training tokens"))
    if len(data.validation):
        draw = partial(curves.draw_validation_loss, data=data)
        panels.append(panel(draw, "Validation loss against training tokens"))
    missing = "" if panels else "No step has been trained yet."
    return Section("loss", "Loss", "Cross entropy of every run.", panels, missing=missing)


def _layers(data: StudyData) -> Section:
    panels = []
    domains = data.layers["domain"].drop_nulls().n_unique()
    measured = set(data.layers["run"])
    for runs in data.series().values():
        if measured.isdisjoint(run.run.id for run in runs):
            continue
        name = curves.label(runs[0])
        draw = partial(detail.draw_layers, data=data, runs=runs)
        panels.append(panel(draw, f"Activation ratio by layer, {name}"))
        if domains > 1:
            draw = partial(detail.draw_domains, data=data, runs=runs)
            panels.append(panel(draw, f"Activation ratio by layer and domain, {name}"))
    about = "At the first, middle and last measured checkpoint; lines are means over seeds."
    if domains > 1:
        about += " By domain: at the last checkpoint."
    missing = "" if panels else "No activation ratios by layer have been measured yet."
    return Section("layers", "Layers", about, panels, missing=missing)


def _neurons(data: StudyData) -> Section:
    if not len(data.neurons):
        missing = "No activation frequencies of neurons have been measured yet."
        return Section("neurons", "Neurons", "", [], missing=missing)
    panels = [
        panel(partial(detail.draw_frequencies, data=data), "Neurons by activation frequency"),
        panel(partial(detail.draw_dead, data=data), "Share of dead neurons against tokens"),
    ]
    about = (
        "How many neurons are active on what share of the tokens, all layers, at the newest "
        "measured checkpoint; dead are those active on fewer than 0.1 % of the tokens."
    )
    return Section("neurons", "Neurons", about, panels)


def _weak(data: StudyData) -> Section:
    rows = weak.read_pareto(data)
    if not len(rows):
        missing = "No Pareto curve has been measured yet: it comes when a run has ended."
        return Section("weak", "Which neurons are weak", "", [], missing=missing)
    panels = []
    for runs in data.series().values():
        mine = [run for run in runs if run.run.id in set(rows["run"])]
        if mine:
            asked = data.store.study.measurement.p_percent
            draw = partial(weak.draw_pareto, rows=rows, runs=mine, asked=asked)
            about = f"Perplexity rise against activation ratio, {curves.label(mine[0])}"
            panels.append(panel(draw, about))
    for draw_at, about in (
        (weak.draw_rise_at_cett, "Perplexity rise against CETT"),
        (weak.draw_ratio_at_cett, "Activation ratio against CETT"),
    ):
        panels.append(panel(partial(draw_at, data=data, rows=rows), about))
    about = (
        f"{weak_neurons(data, rows)} All layers sparse at once, each run's last checkpoint "
        f"before the decay stage; rises under {weak.LEAST_PERCENT:g} % are drawn at that."
    )
    table = ratios_table(data, rows)
    return Section("weak", "Which neurons are weak", about, panels, table)


def _axes(data: StudyData) -> Iterator[Section]:
    """Sections on scale and width-depth ratio, where runs differ in them."""
    for axis, fixed, anchor, title, about in (
        (detail.scale_of, detail.ratio_of, "scale", "Scale", "Runs of like width-depth ratio."),
        (detail.ratio_of, detail.scale_of, "shape", "Width and depth", "Runs of like size."),
    ):
        series = detail.along(data.measured, axis, fixed)
        if series:
            ratio = partial(detail.draw_ratio_along, series=series, axis=axis)
            loss = partial(detail.draw_loss_along, data=data, series=series, axis=axis)
            panels = [
                panel(ratio, f"{title}: activation ratio"),
                panel(loss, f"{title}: validation loss"),
            ]
            yield Section(anchor, title, about, panels)


PAPERS = ("5", "6", "7", "8", "10", "11", "14")
"""Figures of the paper that no other section of the report shows."""


def _paper(data: StudyData) -> Section:
    """The paper's other figures, as `sparsing figures` draws them."""
    panels, said = [], []
    for figure in chosen(PAPERS):
        try:
            made = figure.make(data)
        except MissingFigure as why:
            said.append(f"{figure.name} is missing: {why}.")
            continue
        said += [f"{figure.name}: {note}." for note in made.notes]
        for number, draw in enumerate(made.panels, 1):
            about = f"{figure.name}: {figure.title}"
            panels.append(
                panel(draw, f"{about}, panel {number}" if len(made.panels) > 1 else about)
            )
    text = "Drawn as `sparsing figures` does, which writes their numbers as CSV and Parquet too. "
    return Section("paper", "The paper's other figures", text + " ".join(said), panels)
