"""Grafana's dashboards, as code: writes `operators.json` and `researchers.json` beside this file.

    pip install 'grafana-foundation-sdk==1769699998!10.1.0'
    python deploy/grafana/dashboards.py [FOLDER]

Every query takes the maximum by study and run, so that a law service that moved, or a second one,
makes no second line.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import dashboard, prometheus, stat, timeseries, xychart
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    DataTransformerConfig,
    VariableRefresh,
)
from grafana_foundation_sdk.models.xychart import SeriesMapping

SOURCE = DataSourceRef(type_val="prometheus", uid="${source}")
RUNS = '{study="$study", run=~"$run"}'
STUDY = '{study="$study"}'
WIDTH, HEIGHT = 12, 8

Query = tuple[str, str]
"""PromQL, and the legend."""


def of_run(metric: str, labels: str = "study, run", extra: str = "") -> str:
    """One line for each run."""
    chosen = RUNS if not extra else RUNS[:-1] + f", {extra}}}"
    return f"max by ({labels}) ({metric}{chosen})"


def add_queries(panel: Any, queries: list[Query], instant: bool = False) -> Any:
    """The panel with its queries, A, B and so on."""
    panel = panel.datasource(SOURCE)
    for letter, (expression, legend) in zip("ABCDEFGH", queries, strict=False):
        query = prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(letter)
        panel = panel.with_target(query.instant() if instant else query.range())
    return panel


def lines(title: str, about: str, unit: str, *queries: Query) -> Any:
    """A panel of lines against time."""
    panel = timeseries.Panel().title(title).description(about).unit(unit)
    return add_queries(panel.span(WIDTH).height(HEIGHT), list(queries))


def number(title: str, about: str, unit: str, expression: str, legend: str = "") -> Any:
    """A panel of one number, or one for each legend."""
    panel = stat.Panel().title(title).description(about).unit(unit).span(6).height(4)
    return add_queries(panel, [(expression, legend)], instant=True)


def begin(title: str, uid: str, about: str) -> Any:
    """A dashboard with its data source, study and run to choose."""
    studies, runs = (
        dashboard.QueryVariable(name)
        .datasource(SOURCE)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        for name in ("study", "run")
    )
    return (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(about)
        .tags(["sparsing"])
        .refresh("30s")
        .time("now-6h", "now")
        .with_variable(dashboard.DatasourceVariable("source").type("prometheus"))
        .with_variable(studies.query("label_values(sparsing_runs, study)"))
        .with_variable(
            runs.query('label_values(sparsing_run_state{study="$study"}, run)')
            .multi(True)
            .include_all(True)
            .all_value(".*")
        )
    )


def operators() -> Any:
    """Is it healthy, is it fast, when is it done?"""
    board = begin("sparsing: operators", "sparsing-operators", "Health and speed of a study.")
    panels = [
        number(
            "Runs",
            "By state.",
            "short",
            f"max by (study, state) (sparsing_runs{STUDY})",
            "{{state}}",
        ),
        number(
            "Alerts firing",
            "Each has a runbook.",
            "short",
            'count(ALERTS{alertname=~"Sparsing.*", alertstate="firing", study="$study"})'
            " or vector(0)",
        ),
        number("Speed", "Of all runs.", "short", f"study:sparsing_tokens_per_second:sum{STUDY}"),
        number(
            "Longest run's end",
            "Of those that train now.",
            "s",
            f"max by (study) (study_run:sparsing_eta_seconds{STUDY})",
        ),
        lines(
            "Tokens per second and GPU",
            "Per shard of each run's gang.",
            "short",
            (f"study_run:sparsing_tokens_per_second_per_gpu{RUNS}", "{{run}}"),
        ),
        lines(
            "Model FLOPs utilization",
            "Of the devices' bf16 peak; absent for devices whose peak is not known.",
            "percentunit",
            (of_run("sparsing_run_mfu_ratio"), "{{run}}"),
            (f"study:sparsing_mfu_ratio:mean{STUDY}", "mean by shards"),
        ),
        lines(
            "Age of the newest row",
            "A run that trains writes at each step; 15 minutes without is an alert.",
            "s",
            (of_run("sparsing_run_age_seconds"), "{{run}}"),
            (of_run("sparsing_store_commit_seconds"), "{{run}} commit"),
        ),
        lines(
            "Age of the newest checkpoint",
            "What a restart would lose at most.",
            "s",
            (of_run("sparsing_run_checkpoint_age_seconds"), "{{run}}"),
        ),
        lines(
            "Memory of shard 0",
            "Peak: of its GPU, or resident on a CPU.",
            "bytes",
            (of_run("sparsing_run_memory_bytes"), "{{run}}"),
        ),
        lines(
            "Restarts and failures",
            "Restarts by run, failed attempts by kind.",
            "short",
            (of_run("sparsing_run_restarts_total"), "restarts {{run}}"),
            (f"max by (study, kind) (sparsing_failures_total{STUDY})", "{{kind}}"),
        ),
        lines(
            "Waits for a place on the cluster",
            "Attempts that got theirs: median and the longest twentieth.",
            "s",
            (quantile(0.5, "sparsing_placement_wait_seconds"), "median"),
            (quantile(0.95, "sparsing_placement_wait_seconds"), "95 %"),
        ),
        lines(
            "Measurements and fits",
            "Median wall times, and how long the newest measurement waits for its fit.",
            "s",
            (quantile(0.5, "sparsing_measure_seconds"), "measurement"),
            (quantile(0.5, "sparsing_fit_seconds"), "fit"),
            (f"min by (study) (sparsing_fit_lag_seconds{STUDY})", "fit lag"),
        ),
        lines(
            "Free on the store's file system",
            "Less than a tenth is an alert.",
            "bytes",
            (f"min by (study) (sparsing_store_free_bytes{STUDY})", "free"),
            (f"max by (study) (sparsing_store_size_bytes{STUDY})", "size"),
        ),
        lines(
            "Rows in the store",
            "By table.",
            "short",
            (f"max by (study, table) (sparsing_store_rows_total{STUDY})", "{{table}}"),
        ),
    ]
    return with_panels(board, panels)


def researchers() -> Any:
    """What does it find?"""
    about = "Activation ratios, their laws and limits."
    board = begin("sparsing: researchers", "sparsing-researchers", about)
    ratio, law = of_run("sparsing_activation_ratio"), of_run("sparsing_law_activation_ratio")
    limit = "sparsing_law_limit_activation_ratio"
    panels = [
        against_tokens(ratio, law),
        lines(
            "Activation ratio and its law",
            "Of the newest checkpoint measured; by the newest fit, and as it was forecast.",
            "percentunit",
            (ratio, "{{run}}"),
            (law, "{{run}} law"),
            (of_run("sparsing_law_forecast_activation_ratio"), "{{run}} forecast"),
        ),
        lines(
            "Limit of the activation ratio",
            "With infinite data, by the newest fit; ends of the 95 % interval where they exist.",
            "percentunit",
            *(
                (of_run(limit, "study, run, bound", f'bound="{bound}"'), f"{{{{run}}}} {bound}")
                for bound in ("estimate", "low", "high")
            ),
        ),
        lines(
            "Off the forecast",
            "The newest measurement against the fit that did not know it, in residuals.",
            "short",
            (f"study_run:sparsing_law_surprise{RUNS}", "{{run}}"),
        ),
        lines(
            "Change of the activation ratio per billion tokens",
            "Over the checkpoints of six hours.",
            "percentunit",
            (f"study_run:sparsing_activation_ratio_per_billion_tokens:6h{RUNS}", "{{run}}"),
        ),
        lines(
            "Residual of the law",
            "Root mean square over the points fitted.",
            "percentunit",
            (of_run("sparsing_law_residual"), "{{run}}"),
        ),
        lines(
            "Training loss", "Nats per token.", "short", (of_run("sparsing_run_loss"), "{{run}}")
        ),
        lines(
            "Training tokens",
            "Seen, of those planned.",
            "percentunit",
            (
                f"{of_run('sparsing_run_tokens_total')} / {of_run('sparsing_run_planned_tokens')}",
                "{{run}}",
            ),
            (of_run("sparsing_run_learning_rate"), "{{run}} learning rate"),
        ),
    ]
    return with_panels(board, panels)


def against_tokens(ratio: str, law: str) -> Any:
    """Activation ratio and law against training tokens, of the runs chosen."""
    tokens = of_run("sparsing_run_measured_tokens")
    panel = (
        xychart.Panel()
        .title("Activation ratio against tokens")
        .description("Choose one run: points are joined by time, x is the tokens measured.")
        .series_mapping(SeriesMapping.MANUAL)
        .series(
            [
                xychart.ScatterSeriesConfig().x("tokens").y("measured").name("measured"),
                xychart.ScatterSeriesConfig().x("tokens").y("law").name("law"),
            ]
        )
        .with_transformation(
            DataTransformerConfig(id_val="joinByField", options={"byField": "Time"})
        )
        .span(WIDTH)
        .height(HEIGHT)
    )
    return add_queries(panel, [(tokens, "tokens"), (ratio, "measured"), (law, "law")])


def quantile(share: float, metric: str) -> str:
    """Of a histogram's values so far."""
    return f"histogram_quantile({share}, max by (study, le) ({metric}_bucket{STUDY}))"


def with_panels(board: Any, panels: list[Any]) -> Any:
    """The dashboard with its panels, in their order."""
    for panel in panels:
        board = board.with_panel(panel)
    return board.build()


def main(folder: Path) -> None:
    """Write both dashboards."""
    boards = {"operators": operators(), "researchers": researchers()}
    for name, board in boards.items():
        text = JSONEncoder(sort_keys=True, indent=2).encode(board)
        (folder / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
