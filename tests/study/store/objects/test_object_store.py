"""The store on a real S3 server, with faults between: acknowledged is visible, exactly once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import stores
from click.testing import CliRunner
from s3 import Proxy, proxy, s3_server
from stores import step_row, tiny_store, write_rows

from sparsing.analysis.refitting.follow import FollowedStudy
from sparsing.analysis.service.app import application
from sparsing.analysis.service.web.server import Server
from sparsing.study.commands.main import cli
from sparsing.study.errors import DefinitionError, FencedError, NotFoundError, SparsingError
from sparsing.study.store.care.check import check_store
from sparsing.study.store.care.repair import repair_store
from sparsing.study.store.control.lease import (
    Process,
    Record,
    acquire,
    check_token,
    holder_of,
    study_cell,
)
from sparsing.study.store.io import objects
from sparsing.study.store.io.objects import ObjectPath, place_of
from sparsing.study.store.objects.partition import block_of
from sparsing.study.store.study_store import StudyStore, list_studies

RUN = "relu-d8x2-wd4-s0"
S3_PYTHON = os.environ.get("SPARSING_S3_PYTHON", Path(__file__).parents[4] / ".venv-s3/bin/python")
"""An interpreter with moto, which does not go together with what we need ourselves."""
WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
from stores import step_row
from sparsing.study.store.study_store import StudyStore
store = StudyStore.open(".", sys.argv[2])
writer = store.writer("steps", run="r", attempt=int(sys.argv[3]), commit_seconds=0.001)
for seq in range(10**6):
    writer.append(seq, [step_row(seq)])
    writer.flush()
    print(seq, flush=True)
"""


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    if not Path(S3_PYTHON).exists():
        pytest.skip("no S3 server to test against: `make s3-server` installs one")
    with s3_server(S3_PYTHON) as url:
        yield url


@pytest.fixture
def net(server: str, monkeypatch: pytest.MonkeyPatch, request) -> Iterator[Proxy]:
    """The way to the server: AWS_* variables of a proxy, which fails nothing until told to."""
    with proxy(server, seed=hash(request.node.name)) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{between.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        objects._store_of.cache_clear()
        yield between
    objects._store_of.cache_clear()


@pytest.fixture
def store(net: Proxy, request) -> StudyStore:
    return tiny_store(f"s3://bucket/{request.node.name.partition('[')[0]}-{time.time_ns()}")


def steps(store: StudyStore, run: str = "r") -> list[int]:
    return store.scan("steps", run).collect()["step"].to_list()


def names(store: StudyStore) -> list[str]:
    return sorted(name for name, _ in store.state("steps", "r"))


def append(store: StudyStore, numbers: range, attempt: int = 1) -> None:
    with store.writer("steps", run="r", attempt=attempt) as writer:
        for seq in numbers:
            writer.append(seq, [step_row(seq)])
            writer.flush()


def served(store: StudyStore, path: str) -> str:
    """What `sparsing serve` answers."""
    with FollowedStudy(store) as study, Server(application([study]), "127.0.0.1", 0) as server:
        assert study.refit() == 0
        with urllib.request.urlopen(server.url + path, timeout=30) as answer:
            return answer.read().decode()


def command(*words: str) -> dict:
    result = CliRunner().invoke(cli, [*words, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_rows_are_read_as_they_were_written(store):
    append(store, range(18))
    assert names(store)[-1].startswith("main-000000-000015-")
    assert steps(store) == list(range(18))
    assert store.count_rows("steps") == 18
    late = store.scan("steps").filter(pl.col("loss") < 0.4).select("step")
    assert late.collect()["step"].to_list() == list(range(12, 18))
    assert store.scan("steps", newest=True).collect()["step"].to_list() == [17]
    assert store.runs_present("steps") == ["r"]
    root = store.place.parent
    assert StudyStore.open(root, "tiny").study == store.study
    assert list_studies(str(root)) == [store.study_id]
    append(store, range(15, 20), attempt=2)  # replayed steps are there already
    assert steps(store) == list(range(20))
    store.seal("r")
    assert [name[:19] for name in names(store)] == ["main-000000-000031-"]
    append(store, range(19, 21))
    assert steps(store) == list(range(21))
    assert check_store(store).findings == []


def test_blocks_are_whole_and_disjoint():
    at = 0
    while at < 20_000:
        first, last = block_of(at)
        assert first == at
        assert all(block_of(g) == (first, last) for g in (first, (first + last) // 2, last))
        at = last + 1


def write_with_faults(store: StudyStore, net: Proxy, seed: int, count: int) -> None:
    chance, acknowledged = random.Random(seed), -1
    while acknowledged < count - 1:
        with store.writer("steps", run="r", attempt=1, commit_seconds=0.001) as writer:
            net.probability = 0.1
            for seq in range(acknowledged + 1, min(acknowledged + 12, count)):
                writer.append(seq, [step_row(seq)])
                if chance.random() < 0.5:
                    writer.flush()
                    assert steps(store)[: seq + 1] == list(range(seq + 1))
            if chance.random() < 0.2:
                store.seal("r")
        net.probability, acknowledged = 0.0, seq


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 20))]
)
def test_faults_of_net_and_server_lose_and_double_nothing(store, net, seed):
    write_with_faults(store, net, seed, 20)
    assert sum(net.done.values()) > 0
    assert steps(store) == list(range(20))
    assert check_store(store).damage == []


def test_a_put_whose_answer_was_lost_is_no_other_writer(store, net):
    path = store.place / "object"
    net.probability, net.chance = 1.0, _Only("lost answer", 1)
    assert path.put_new(b"ours")
    net.probability = 0.0
    assert path.put_new(b"ours")
    assert not path.put_new(b"theirs")
    assert path.read_bytes() == b"ours"


def test_a_put_that_is_refused_as_if_its_name_were_taken_is_made_again(store, net):
    with store.writer("steps", run="r", attempt=1) as writer:
        net.probability, net.chance = 1.0, _Only("412", 1)
        writer.append(0, [step_row(0)])
        writer.flush()
    assert net.done["412"] == 1
    assert steps(store) == [0]


class _Only(random.Random):
    """Fails so many requests in one way, then none."""

    def __init__(self, fault: str, count: int) -> None:
        super().__init__(0)
        self.fault_wanted, self.left = fault, count

    def random(self) -> float:
        self.left -= 1
        return 0.0 if self.left >= 0 else 2.0

    def choice(self, _: object) -> str:
        return self.fault_wanted


def test_a_version_is_written_once(store):
    path = store.place / "lease"
    assert path.read_versioned() is None
    assert path.write_if(b"1", None)
    assert not path.write_if(b"other", None)
    _, version = path.read_versioned()
    assert path.write_if(b"2", version)
    assert not path.write_if(b"3", version)
    assert path.read_bytes() == b"2"


def test_a_study_has_one_controller_at_a_time(store):
    first = acquire(study_cell(store.place), seconds=1.5)
    with pytest.raises(SparsingError, match="another controller"):
        acquire(study_cell(store.place))
    first.check()
    first.release()
    second = acquire(study_cell(store.place))
    assert (first.token, second.token) == (1, 2)
    with pytest.raises(FencedError, match="token 1"):
        check_token(store.place, first.token)
    check_token(store.place, second.token)
    second.release()


def test_who_stood_still_lost_the_lease_to_the_next(store):
    cell = study_cell(store.place)
    gone = Record(owner="elsewhere", holder="x", token=7, seconds=0.3)
    version = cell.write(
        replace(gone, process=Process(machine="other", pid=1, started="1")).to_bytes(), None
    )
    mine = acquire(cell)
    assert mine.token == 8
    assert cell.write(b"late", version) is None
    mine.release()


def test_of_many_that_write_a_cell_at_once_one_succeeds(store):
    cell = study_cell(store.place)
    version = cell.write(b"start", None)
    written = objects.in_parallel(lambda n: cell.write(str(n).encode(), version), range(8))
    (won,) = [n for n, made in enumerate(written) if made]
    assert cell.read() == (str(won).encode(), written[won])


def test_a_lease_outlasts_a_service_that_refuses(store, net):
    lease = acquire(study_cell(store.place))
    net.probability, net.chance = 1.0, _Only("403", 1)
    lease._renew()
    assert net.done["403"] == 1
    lease._renew()
    lease.check()
    lease.release()
    assert holder_of(store.place).released


def test_two_writers_of_one_stream_double_nothing(store):
    """Both append the same numbers, neither knows of the other; readers see prefixes."""
    stopping, failures = threading.Event(), []

    def read() -> None:
        while not stopping.is_set():
            seen = steps(store)
            if sorted(set(seen)) != sorted(seen):
                failures.append(seen)

    reader = threading.Thread(target=read)
    reader.start()
    writers = [threading.Thread(target=append, args=(store, range(18), a)) for a in (1, 2)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    stopping.set()
    reader.join()
    assert failures == []
    assert sorted(steps(store)) == list(range(18))
    assert check_store(store).damage == []


@pytest.mark.slow
def test_what_a_belated_writer_puts_behind_a_segment_is_not_acknowledged_there(store):
    append(store, range(5))
    belated = store.writer("steps", run="r", attempt=1, commit_seconds=0.001)
    append(store, range(5, 10), attempt=2)
    store.seal("r")  # the name of generation 5 is free again
    belated.append(5, [step_row(5)])
    belated.append(10, [step_row(10)])
    belated.close()
    assert steps(store) == list(range(11))
    store.seal("r")
    assert steps(store) == list(range(11))
    assert check_store(store).findings == []


@pytest.mark.slow
def test_two_compactors_and_a_writer(store):
    append(store, range(20))
    work = [threading.Thread(target=store.seal, args=("r",)) for _ in range(2)]
    work.append(threading.Thread(target=append, args=(store, range(20, 30))))
    for thread in work:
        thread.start()
    while any(thread.is_alive() for thread in work):
        assert steps(store)[:20] == list(range(20))
    for thread in work:
        thread.join()
    assert steps(store) == list(range(30))
    store.seal("r")
    assert steps(store) == list(range(30))
    assert check_store(store).damage == []


def kill_writers(store: StudyStore, seed: int, kills: int) -> None:
    chance, acknowledged = random.Random(seed), -1
    for attempt in range(1, kills + 1):
        arguments = [str(Path(stores.__file__).parent), str(store.place), str(attempt)]
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, *arguments], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(chance.randrange(1, 12) + max(0, acknowledged)):
            acknowledged = max(acknowledged, int(process.stdout.readline()))
        time.sleep(chance.random() * 0.1)
        os.kill(process.pid, signal.SIGKILL)
        said = process.communicate()[0].split("\n")[:-1]
        acknowledged = max([acknowledged, *map(int, said)])
        seen = steps(store)
        assert seen == list(range(len(seen)))
        assert len(seen) > acknowledged
    assert check_store(store).damage == []


def test_killed_writers_lose_and_double_nothing(store):
    kill_writers(store, seed=0, kills=1)


@pytest.mark.slow
def test_many_killed_writers_lose_and_double_nothing(store):
    kill_writers(store, seed=1, kills=40)


def test_damage_is_found_and_repaired(store):
    append(store, range(18))
    folder = store.partition("steps", "r")
    segment = folder / names(store)[-1]
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.replace_by(bytes(data))
    (folder / "_main-000017.log").replace_by(b"SPRSLOG1")
    assert sorted(f.kind for f in check_store(store).damage) == ["digest", "log"]
    assert len(repair_store(store)) == 2
    assert check_store(store).damage == []
    assert steps(store) == [16]
    append(store, range(18), attempt=2)
    assert sorted(steps(store)) == list(range(18))


def test_commands_work_on_an_object_store(net, store):
    root = str(store.place.parent)
    write_rows(store, "steps", RUN, [step_row(n) for n in range(5)])
    write_rows(store, "runs", RUN, [{"step": 0, "state": "done"}])
    assert command("store", "check", "tiny", "--store", root)["findings"] == []
    assert command("store", "compact", "tiny", "--store", root)["runs"] == 1
    assert command("store", "repair", "tiny", "--store", root)["done"] == []
    assert command("status", "tiny", "--store", root)["study"] == store.study_id
    asked = CliRunner().invoke(
        cli, ["query", "tiny", "SELECT max(step) AS s FROM steps", "--store", root, "--csv"]
    )
    assert asked.stdout.split() == ["s", "4"]
    command("report", "tiny", "--store", root)
    assert b"<html" in (store.place / "report.html").read_bytes()
    assert "sparsing_store_rows_total" in served(store, "/metrics")
    assert store.study_id in served(store, "/api/studies")
    refused = CliRunner().invoke(cli, ["store", "check", "tiny", "--store", "s3://no-bucket/x"])
    assert isinstance(refused.exception, NotFoundError)
    assert "no bucket" in str(refused.exception)


def test_training_says_that_it_needs_a_folder(store):
    with pytest.raises(DefinitionError, match="need a folder"):
        _ = store.path
    root = f"{store.place.parent}/none"
    refused = CliRunner().invoke(cli, ["run", "quickstart", "--store", root])
    assert isinstance(refused.exception, DefinitionError)
    assert "need a folder" in str(refused.exception)
    assert list_studies(root) == []


def test_addresses():
    assert place_of("s3://b/p//q/") == ObjectPath("s3://b", "p/q")
    assert place_of("/x") == Path("/x")
    for wrong in ("s3://", "ftp://b/x", "s3://b/../x"):
        with pytest.raises(DefinitionError, match="bucket/prefix"):
            place_of(wrong)


def test_a_study_that_is_not_there(net):
    with pytest.raises(NotFoundError, match="no study"):
        StudyStore.open("s3://bucket/nothing", "tiny")
