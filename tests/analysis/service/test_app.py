from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from real_prometheus import needs_prometheus, prometheus, wait_until
from report_stores import (
    hostile_store,
    small_study,
    write,
    write_measurements,
    write_training,
)
from service_client import RUN, STUDY, TOKEN, Ask, served

from sparsing.actors.commands.status import status
from sparsing.analysis.commands.laws import laws, predict
from sparsing.analysis.refitting.follow import FollowedStudy
from sparsing.analysis.service.app import application
from sparsing.analysis.service.web.server import Server
from sparsing.study.plan.runs import plan_runs
from sparsing.study.store.study_store import StudyStore
from sparsing.study.store.tables import TABLES


def printed(command: Any, store: StudyStore, *arguments: str) -> Any:
    """What a command prints as JSON."""
    options = [STUDY, *arguments, "--store", str(store.path.parent), "--json"]
    done = CliRunner().invoke(command, options, catch_exceptions=False)
    return json.loads(done.stdout)


def ageless(document: Any) -> Any:
    """Without what changes by the second."""
    if isinstance(document, dict):
        return {k: ageless(v) for k, v in document.items() if not k.endswith("age_seconds")}
    return [ageless(item) for item in document] if isinstance(document, list) else document


def test_documents_are_those_of_the_commands(ask, store) -> None:
    assert ageless(ask(f"/api/studies/{STUDY}").json) == ageless(printed(status, store))
    assert ask(f"/api/studies/{STUDY}/laws").json == printed(laws, store)
    asked = f"/api/studies/{STUDY}/predict?run={RUN}"
    for name, text in (("tokens", "800B"), ("ratio", "0.07")):
        expected = printed(predict, store, RUN, f"--{name}", text)
        assert ask(f"{asked}&{name}={text}").json == expected


def test_studies_and_runs(ask, store) -> None:
    (summary,) = ask("/api/studies").json["studies"]
    assert (summary["study"], summary["runs"], summary["states"]["done"]) == (STUDY, 4, 4)
    run = ask(f"/api/studies/{STUDY}/runs/{RUN}").json
    assert run["status"]["run"] == run["plan"]["id"] == RUN
    assert len(run["curve"]["tokens"]) == len(run["curve"]["activation_ratio"]) == 10
    assert run["fits"] == [each for each in printed(laws, store)["fits"] if each["run"] == RUN]


def test_advice_is_that_of_the_command(ask, store) -> None:
    from sparsing.analysis.commands.advise import advise_command

    asked = ask(f"/api/studies/{STUDY}/advice?precision=0.2&tokens=800B")
    expected = printed(advise_command, store, "--precision", "0.2", "--tokens", "800B")
    assert asked.json == expected


def test_pages_load_nothing_from_elsewhere(ask) -> None:
    index = ask("/")
    assert f'href="/studies/{STUDY}/report"' in index.body.decode()
    report = ask(f"/studies/{STUDY}/report")
    assert "activation" in report.body.decode()
    for page in (index, report):
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert not re.search(r'(?:src|href)="(?:https?:)?//', page.body.decode())
        assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", index.body.decode())
    assert "<script" not in report.body.decode()


@pytest.mark.parametrize("table", list(TABLES))
def test_tables_are_arrow_streams_in_their_declared_schema(ask, store, table) -> None:
    answer = ask(f"/api/studies/{STUDY}/tables/{table}")
    assert answer.headers["content-type"] == "application/vnd.apache.arrow.stream"
    read = pa.ipc.open_stream(answer.body).read_all()
    assert read.schema.equals(TABLES[table].schema, check_metadata=True)
    assert pl.DataFrame(pl.from_arrow(read)).equals(store.scan(table).collect())
    assert pl.read_ipc_stream(answer.body).height == read.num_rows


def test_parts_of_tables(ask, store) -> None:
    path = f"/api/studies/{STUDY}/tables/steps"
    asked = ask(f"{path}?columns=loss,step&run={RUN}&limit=7")
    expected = store.scan("steps", RUN).select("loss", "step").head(7).collect()
    assert pl.read_ipc_stream(asked.body).equals(expected)
    nothing = pl.read_ipc_stream(ask(f"{path}?limit=0").body)
    assert (nothing.height, nothing.columns) == (0, TABLES["steps"].schema.names)


def test_long_tables_come_in_many_batches(ask, store, monkeypatch) -> None:
    monkeypatch.setattr("sparsing.analysis.service.table_stream.ROWS_PER_BATCH", 100)
    answer = ask(f"/api/studies/{STUDY}/tables/steps")
    with pa.ipc.open_stream(answer.body) as reader:
        sizes = [batch.num_rows for batch in reader]
    assert max(sizes) <= 100
    assert sum(sizes) == store.count_rows("steps") > 1000


@pytest.mark.parametrize(
    ("path", "code", "says"),
    [
        ("/nothing", 404, "/nothing"),
        ("/api/studies/other-12345678", 404, STUDY),
        (f"/api/studies/..%2f{STUDY}", 404, STUDY),
        (f"/studies/..%2f..%2f{STUDY}", 404, STUDY),
        ("/studies/%00", 404, STUDY),
        ("/page/..%2fpages.py", 404, "pages"),
        ("/page/%2e%2e%2fpages.py", 404, "pages"),
        ("/page/..%5cpages.py", 404, "pages"),
        ("/page/%2fetc%2fpasswd", 404, ""),
        ("/page/live.js%00.css", 404, "pages"),
        ("/studies/other/report", 404, STUDY),
        (f"/api/studies/{STUDY}/runs/none", 404, RUN),
        (f"/api/studies/{STUDY}/tables/none", 404, "sparsity"),
        (f"/api/studies/{STUDY}/tables/steps?run=..%2f..", 404, RUN),
        (f"/api/studies/{STUDY}/tables/steps?columns=los", 422, "loss"),
        (f"/api/studies/{STUDY}/tables/steps?columns=", 422, "loss"),
        (f"/api/studies/{STUDY}/tables/steps?columns=loss,loss", 422, "loss"),
        (f"/api/studies/{STUDY}/tables/steps?limit=-1", 422, "limit"),
        (f"/api/studies/{STUDY}/tables/steps?limt=1", 422, "limt"),
        (f"/api/studies/{STUDY}/tables/steps?limit=46755225499460379969142652928", 422, "limit"),
        (f"/api/studies/{STUDY}/predict?tokens=1B", 422, "run"),
        (f"/api/studies/{STUDY}/predict?run={RUN}", 422, "tokens"),
        (f"/api/studies/{STUDY}/predict?run={RUN}&tokens=many", 422, "many"),
        (f"/api/studies/{STUDY}/predict?run={RUN}&ratio=7", 422, "7"),
        (f"/api/studies/{STUDY}/predict?run={RUN}&ratio=nan", 422, "nan"),
        (f"/api/studies/{STUDY}/predict?run=none&tokens=1B", 404, RUN),
        (f"/api/studies/{STUDY}/advice?precision=-1", 422, "precision"),
        (f"/api/studies/{STUDY}/advice?tokens=x", 422, "x"),
    ],
)
def test_errors_are_messages(ask, path, code, says) -> None:
    answer = ask(path)
    assert answer.status == code
    assert set(answer.json) == {"error"}
    assert says in answer.json["error"]
    assert "Traceback" not in answer.body.decode()


def test_what_the_service_offers_is_described(ask) -> None:
    description = ask("/openapi.json").json
    assert {"/api/studies/{study}/laws", "/metrics", "/healthz"} <= set(description["paths"])
    parameters = description["paths"]["/api/studies/{study}/tables/{table}"]["get"]["parameters"]
    assert {each["name"] for each in parameters} == {"study", "table", "columns", "run", "limit"}
    for path in ("/api/studies/{study}/tables/{table}", "/studies/{study}/report"):
        refused = description["paths"][path]["get"]["responses"]["404"]["content"]
        assert refused["application/json"]["schema"]["required"] == ["error"]
        assert list(refused) == ["application/json"]


def test_another_method_is_refused_and_told_which_are_allowed(ask) -> None:
    refused = ask("/healthz", "DELETE")
    assert (refused.status, refused.headers["allow"]) == (405, "GET")


def test_all_studies_are_in_one_exposition(store, tmp_path) -> None:
    other = StudyStore.create(tmp_path, small_study(tokens=512_000))
    with served(store, other) as asking:
        answer = asking("/metrics", Accept="application/openmetrics-text; version=1.0.0")
        index = asking("/").body.decode()
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    samples = [sample for family in openmetrics(answer.body.decode()) for sample in family.samples]
    states = [each for each in samples if each.name == "sparsing_runs"]
    of = {s.labels["study"]: s.value for s in states if s.labels["state"] == "done"}
    assert of == {STUDY: 4, other.study_id: 0}
    assert STUDY in index
    assert other.study_id in index


def test_hostile_texts_are_no_metrics(tmp_path) -> None:
    """A reason may be any text: of a failure the metrics have the kind alone."""
    store = hostile_store(tmp_path)
    runs = {run.id for run in plan_runs(store.study)}
    with served(store) as asking:
        body = asking("/metrics", Accept="application/openmetrics-text; version=1.0.0").body
    samples = [sample for family in openmetrics(body.decode()) for sample in family.samples]
    assert {each.labels.get("run", RUN) for each in samples} == runs
    assert {each.labels["study"] for each in samples} == {store.study_id}
    assert all(each.name.startswith("sparsing_") for each in samples)
    for trace in (b"stolen", b"fake", b"evil", b"7 * 7"):
        assert trace not in body


def test_a_token_is_asked_for_but_for_the_health(store) -> None:
    with served(store, token=TOKEN) as asking:
        refused = asking("/api/studies")
        assert refused.status == 401
        assert refused.headers["www-authenticate"].startswith("Bearer")
        assert "token" in refused.json["error"]
        for wrong in ("Bearer", "Bearer x", f"Bearer {TOKEN}0", "Basic ?", f"Digest {TOKEN}"):
            assert asking("/metrics", Authorization=wrong).status == 401
        assert asking("/healthz").json == {"alive": True}
        assert asking("/api/studies", Authorization=f"Bearer {TOKEN}").status == 200
        assert asking("/", Authorization=f"Bearer {TOKEN}", Host="study.example").status == 200


def test_without_a_token_only_names_of_this_machine_are_answered(ask) -> None:
    for host in ("localhost:1", "127.0.0.1", "[::1]:80"):
        assert ask("/api/studies", Host=host).status == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "0"):
        refused = ask("/api/studies", Host=host)
        assert refused.status == 403
        assert "token" in refused.json["error"]


def test_ready_once_looked_at_and_not_when_the_store_is_gone(tmp_path) -> None:
    store = StudyStore.create(tmp_path, small_study())
    with served(store) as asking:
        answer = asking("/readyz")
        assert answer.status == 503
        assert "ended" in answer.json["problems"][STUDY]
    with served(store, refits=True) as asking:
        wait_until(lambda: asking("/readyz").status == 200)
        (store.path / "study.yaml").rename(store.path / "away")
        gone = asking("/readyz")
        assert gone.status == 503
        assert "study.yaml" in gone.json["problems"][STUDY]
        assert asking("/healthz").status == 200


def test_a_first_look_needs_a_look_only_when_it_takes_long(tmp_path, monkeypatch) -> None:
    store = StudyStore.create(tmp_path, small_study())
    for seconds, level in ((10.0, "planned"), (0.0, "attention")):
        monkeypatch.setattr("sparsing.analysis.refitting.follow.BEHIND_SECONDS", seconds)
        with served(store) as asking:
            (study,) = asking("/api/studies").json["studies"]
            assert study["health"]["level"] == level


def test_a_damaged_file_is_a_message(tmp_path) -> None:
    store = StudyStore.create(tmp_path, small_study())
    folder = store.partition("fits", RUN)
    folder.mkdir(parents=True)
    (folder / "main-000000-000000-0123456789abcdef.parquet").write_bytes(b"PAR1 no parquet PAR1")
    with served(store) as asking:
        answer = asking(f"/api/studies/{STUDY}/laws")
    assert answer.status == 503
    assert "store" in answer.json["error"]


def test_new_measurements_are_fitted_and_served(tmp_path) -> None:
    store = StudyStore.create(tmp_path, small_study())
    run = plan_runs(store.study)[0]
    write_training(store, run)
    path = f"/api/studies/{STUDY}"
    with served(store, refits=True) as asking:
        assert asking(f"{path}/laws").json["fits"] == []
        write_measurements(store, run)
        (fit,) = wait_until(lambda: asking(f"{path}/laws").json["fits"])
        assert (fit["run"], fit["points"]) == (run.id, 9)
        assert asking(f"{path}/runs/{run.id}").json["fits"] == [fit]
        wait_until(lambda: asking("/readyz").status == 200)
        lags = re.findall(r"^sparsing_fit_lag_seconds\{.*\} (\S+)$", metrics_text(asking), re.M)
        assert lags == ["0.0"]
        assert run.id in asking(f"/studies/{STUDY}/report").body.decode()


def metrics_text(asking: Ask) -> str:
    return asking("/metrics").body.decode()


@pytest.mark.slow
def test_a_measurement_is_in_a_fit_within_two_seconds(tmp_path) -> None:
    store = StudyStore.create(tmp_path, small_study())
    run = plan_runs(store.study)[0]
    lags = []
    with FollowedStudy(store) as study:
        write_measurements(store, run, count=3)
        wait_until(lambda: store.count_rows("fits", run.id) == 1)
        for count in range(4, 10):
            time.sleep(0.37)  # no whole part of the second between two looks
            write_measurements(store, run, count=count)
            began = time.monotonic()
            wait_until(lambda count=count: store.count_rows("fits", run.id) == count - 2)
            lags.append(time.monotonic() - began)
        assert study.problem() is None
    assert sorted(lags)[len(lags) // 2] < 2
    assert max(lags) < 5  # on a busy machine


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def _prometheus(folder: Path, target: int) -> Iterator[Callable[[str], list[Any]]]:
    """A real server that scrapes the target each 200 ms with the token; gives its queries."""
    scrape = {
        "job_name": "sparsing",
        "static_configs": [{"targets": [f"127.0.0.1:{target}"]}],
        "authorization": {"credentials": TOKEN},
    }
    config = {"global": {"scrape_interval": "200ms"}, "scrape_configs": [scrape]}
    (folder / "prometheus.yml").write_text(json.dumps(config))
    with prometheus(folder / "prometheus.yml") as query:
        yield query


@pytest.mark.slow
@needs_prometheus
def test_a_real_prometheus_server_scrapes_it(tmp_path, tmp_path_factory) -> None:
    store = StudyStore.create(tmp_path, small_study())
    run = plan_runs(store.study)[0]
    write_training(store, run)
    write_measurements(store, run)
    followed = FollowedStudy(store)
    folder = tmp_path_factory.mktemp("server")
    with (
        followed,
        Server(application([followed], TOKEN), "127.0.0.1", 0) as server,
        _prometheus(folder, server.port) as query,
    ):
        (found,) = wait_until(lambda: query("sparsing_run_tokens_total > 0"))
        assert found["metric"]["run"] == run.id
        newest = store.scan("steps", run.id).select(pl.col("tokens").max()).collect().item()
        assert float(found["value"][1]) == newest
        (median,) = query("histogram_quantile(0.5, sparsing_measure_seconds_bucket)")
        assert 0 < float(median["value"][1]) <= 0.5
        assert wait_until(lambda: query("sparsing_fit_seconds_count > 0"))
        assert query("up == 1")
        assert not query("scrape_samples_scraped - scrape_samples_post_metric_relabeling > 0")
        write(store, "runs", run, [{"step": run.steps, "state": "done"}], stream="controller")
        wait_until(lambda: not query("sparsing_run_tokens_per_second"))
