"""Tokens are made once, the same whoever makes them; a study's data are a view of them."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

from sparsing.actors.data.pipeline import parts, plan
from sparsing.actors.data.pipeline.parts import committed
from sparsing.actors.data.pipeline.progress import StoppedError
from sparsing.actors.data.prepare import prepare
from sparsing.actors.data.sources import pieces
from sparsing.actors.data.sources.megatron import index_bytes, read_index
from sparsing.study.definition.model import Study
from sparsing.study.errors import DamagedError, DefinitionError, SparsingError


def prose(seed: object, count: int) -> str:
    rng = random.Random(str(seed))
    words = [f"{rng.choice('abcdefgh')}{rng.randrange(500)}" for _ in range(count)]
    return "\n".join(" ".join(words[i : i + 10]) for i in range(0, count, 10))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("corpus")
    paths = {}
    for name in ("a", "b"):
        paths[name] = folder / f"{name}.jsonl"
        rows = [json.dumps({"text": prose((name, i), 200 + 40 * (i % 9))}) for i in range(150)]
        paths[name].write_text("\n".join(rows) + "\n")
    return paths


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(pieces, "SMALLEST_PART_BYTES", 20_000)


def study(paths: dict[str, Path], weight: float = 1.0, **data: object) -> Study:
    domains = {
        name: {"kind": "jsonl", "path": str(path), "weight": weight if name == "a" else 1.0}
        for name, path in paths.items()
    }
    settings = {
        "tokenizer": {"kind": "bpe", "vocabulary_size": 400, "sample_bytes": 40_000},
        "sequence_tokens": 128,
        "validation": {"tokens": 4096},
    } | data
    return Study.model_validate(
        {
            "name": "s",
            "axes": {"scale": [{"d_h": 32, "layers": 2}]},
            "tokens": 1000,
            "data": {"domains": domains, **settings},
        }
    )


def snapshot(root: Path) -> dict[str, bytes]:
    """Every file that counts, by name."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(root).parts)
    }


CHANGES = [
    {"weight": 3.0},
    {"sequence_tokens": 256},
    {"validation": {"tokens": 2048}},
    {"validation": {"tokens": 4096, "near_duplicate_jaccard": 0.5}},
]


def test_changed_views_tokenize_nothing(corpus, tmp_path):
    first = prepare(study(corpus), tmp_path)
    assert first.metadata["made"]["parts_tokenized"] > 4
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("tokens/*/part-*")}
    for change in CHANGES:
        again = prepare(study(corpus, **change), tmp_path)
        assert again.metadata["made"]["parts_tokenized"] == 0
        assert again.metadata["tokenizer_fingerprint"] == first.metadata["tokenizer_fingerprint"]
        fresh = prepare(study(corpus, **change), tmp_path / "fresh")
        for domain in fresh.domains:
            assert np.array_equal(again.train(domain), fresh.train(domain))
        assert again.weights == fresh.weights
        assert again.sequence_tokens == fresh.sequence_tokens
        assert again.sequence_tokens == change.get("sequence_tokens", 128)
        for half in ("choose", "report"):
            assert np.array_equal(again.validation("a", half), fresh.validation("a", half))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("tokens/*/part-*")} == before


def test_a_new_source_leaves_tokens_of_the_others(corpus, tmp_path):
    bytes_alone = {"tokenizer": {"kind": "bytes"}, "validation": {"tokens": 4096}}
    one = prepare(study({"a": corpus["a"]}, **bytes_alone), tmp_path)
    both = prepare(study(corpus, **bytes_alone), tmp_path)
    assert both.metadata["made"]["parts_tokenized"] < 2 * one.metadata["made"]["parts_tokenized"]
    assert (
        both.metadata["domains"]["a"]["train_files"] == one.metadata["domains"]["a"]["train_files"]
    )


def test_the_size_of_parts_changes_no_token(corpus, tmp_path, monkeypatch):
    small = prepare(study(corpus), tmp_path / "small")
    monkeypatch.setattr(pieces, "SMALLEST_PART_BYTES", 10**9)
    large = prepare(study(corpus), tmp_path / "large")
    assert small.metadata["made"]["parts_tokenized"] > large.metadata["made"]["parts_tokenized"]
    for domain in small.domains:
        assert np.array_equal(small.train(domain), large.train(domain))
        for half in ("choose", "report"):
            assert np.array_equal(small.validation(domain, half), large.validation(domain, half))


@pytest.mark.parametrize("max_bytes", [60_000, 100_000])
def test_a_limit_takes_the_same_whatever_the_parts(corpus, tmp_path, monkeypatch, max_bytes):
    settings = {"max_bytes": max_bytes, "validation": {"tokens": 1024}}
    small = prepare(study(corpus, **settings), tmp_path / "small")
    monkeypatch.setattr(pieces, "SMALLEST_PART_BYTES", 10**9)
    large = prepare(study(corpus, **settings), tmp_path / "large")
    for domain in small.domains:
        assert small.metadata["domains"][domain]["bytes"] <= max_bytes
        assert np.array_equal(small.train(domain), large.train(domain))


def test_a_damaged_part_is_made_again(corpus, tmp_path):
    first = prepare(study(corpus), tmp_path)
    part = first.path / first.metadata["domains"]["a"]["train_files"][1]
    content = part.read_bytes()
    part.write_bytes(content[:-2])
    assert committed(part.with_suffix("")) is None
    again = prepare(study(corpus, sequence_tokens=256), tmp_path)
    assert again.metadata["made"]["parts_tokenized"] == 1
    assert part.read_bytes() == content


def test_the_disk_is_full_and_then_it_is_not(corpus, tmp_path, monkeypatch):
    whole = parts.os.fsync
    left = [4]

    def full(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        whole(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(parts.os, "fsync", full)
        with pytest.raises(SparsingError, match="is full"):
            prepare(study(corpus), tmp_path / "root")
    assert not list((tmp_path / "root").glob("[!.]*/metadata.json"))
    prepare(study(corpus), tmp_path / "root")
    prepare(study(corpus), tmp_path / "other")
    assert not list((tmp_path / "root").rglob("*.tmp"))
    mine, theirs = snapshot(tmp_path / "root"), snapshot(tmp_path / "other")
    assert mine.keys() == theirs.keys()
    assert all(mine[name] == theirs[name] for name in mine if name.endswith((".bin", ".npy")))


def test_a_preparation_stops_between_parts_and_goes_on(corpus, tmp_path):
    asked = []

    def stopping() -> bool:
        asked.append(len(list(tmp_path.glob("tokens/*/part-*.json"))))
        return len(asked) == 3

    with pytest.raises(StoppedError):
        prepare(study(corpus), tmp_path, stopping=stopping)
    assert len(list(tmp_path.glob("tokens/*/part-*.json"))) == 3
    again = prepare(study(corpus), tmp_path)
    assert (
        again.metadata["made"]["parts_tokenized"]
        == len(list(tmp_path.glob("tokens/*/part-*.json"))) - 3
    )


def test_leftovers_of_killed_workers_are_removed(corpus, tmp_path):
    first = prepare(study(corpus), tmp_path)
    name = first.metadata["domains"]["a"]["train_files"][0]
    leftover = (first.path / name).with_name(".part-000007.0123abcd.tmp")
    leftover.write_bytes(b"half a part")
    prepare(study(corpus, sequence_tokens=256), tmp_path)
    assert not leftover.exists()


def test_our_tokens_are_an_index_of_megatron(corpus, tmp_path):
    data = prepare(study(corpus), tmp_path)
    part = data.path / data.metadata["domains"]["a"]["train_files"][0]
    dtype, starts, lengths = read_index(part.with_suffix(".idx"))
    tokens = np.fromfile(part, dtype)
    assert len(tokens) == lengths.sum()
    ends = tokens[starts + lengths - 1]
    assert (ends == data.metadata["end_of_document"]).all()
    first = json.loads(corpus["a"].open().readline())["text"]
    assert data.tokenizer.decode(tokens[: lengths[0] - 1]) == first


def test_an_index_that_is_cut_or_strange_is_refused(tmp_path):
    path = tmp_path / "x.idx"
    whole = index_bytes(np.array([3, 4, 5]), np.dtype("<u2"))
    for damaged in (whole[:-3], whole[:20], b"x" + whole[1:], whole[:9] + b"\7" + whole[10:]):
        path.write_bytes(damaged)
        with pytest.raises(DamagedError, match=r"x\.idx"):
            read_index(path)


def test_broken_lines_are_counted_in_what_is_prepared(corpus, tmp_path):
    path = tmp_path / "broken.jsonl"
    path.write_text(corpus["a"].read_text() + "{\n")
    wanted = study({"a": path})
    with pytest.raises(DefinitionError, match=r"broken\.jsonl"):
        prepare(wanted, tmp_path / "data")
    source = wanted.data.domains["a"].model_copy(update={"max_broken_share": 0.05})
    data = wanted.data.model_copy(update={"domains": {"a": source}})
    made = prepare(wanted.model_copy(update={"data": data}), tmp_path / "data")
    assert made.metadata["domains"]["a"]["broken_rows"] == 1


PREPARE = """
import sys
from pathlib import Path
import ray
from sparsing.actors.data.pipeline import executors
from sparsing.actors.data.pipeline.progress import StoppedError
from sparsing.actors.data.prepare import prepare
from sparsing.actors.data.sources import pieces
from sparsing.study.definition.model import Study
pieces.SMALLEST_PART_BYTES = 20_000
executors.INLINE_BYTES = int(sys.argv[3])
if not executors.INLINE_BYTES:
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=80 * 2**20)
study = Study.model_validate_json(Path(sys.argv[1]).read_text())
print("begins", flush=True)
prepare(study, Path(sys.argv[2]), lambda line: print(line, flush=True))
"""


def start(definition: Path, root: Path, inline_bytes: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", PREPARE, str(definition), str(root), str(inline_bytes)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


@pytest.fixture
def definition(corpus, tmp_path) -> Path:
    path = tmp_path / "study.json"
    path.write_text(study(corpus).model_dump_json())
    return path


def tokens_and_views(root: Path) -> dict[str, bytes]:
    return {
        name: content
        for name, content in snapshot(root).items()
        if name.endswith((".bin", ".idx", ".npy", "tokenizer.json"))
    }


def test_tasks_of_ray_make_the_same_bytes(corpus, definition, tmp_path):
    process = start(definition, tmp_path / "ray", 0)
    process.communicate(timeout=240)
    assert process.returncode == 0
    prepare(study(corpus), tmp_path / "inline")
    assert tokens_and_views(tmp_path / "ray") == tokens_and_views(tmp_path / "inline")


def victim(process: subprocess.Popen[bytes], kind: str) -> psutil.Process | None:
    """The driver, its raylet, or one of its workers; None where there is none yet."""
    driver = psutil.Process(process.pid)
    if kind == "driver":
        return driver
    below = driver.children(recursive=True)
    wanted = [p for p in below if (p.name() == "raylet") == (kind == "raylet")]
    workers = [p for p in wanted if kind == "raylet" or p.name().startswith("ray::")]
    return workers[0] if workers else None


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_random_moments_the_result_is_the_same(corpus, definition, tmp_path):
    """Workers, raylets and drivers are killed; parts that were finished stay as they are."""
    prepare(study(corpus), tmp_path / "whole")
    root, rng, kills, starts = tmp_path / "killed", random.Random(0), Counter(), 0
    while not list(root.glob("[!.]*/metadata.json")) or sum(kills.values()) < 30:
        if list(root.glob("[!.]*/metadata.json")):
            shutil.rmtree(root)  # it has ended: begin anew
        starts += 1
        assert starts < 120
        process = start(definition, root, 0)
        assert process.stdout is not None
        process.stdout.readline()
        while process.poll() is None:
            time.sleep(rng.random() * 2)
            kind = rng.choice(["worker", "worker", "driver", "raylet"])
            before = {p: p.stat().st_mtime_ns for p in root.glob("tokens/*/part-*.json")}
            with suppress(psutil.Error):
                if found := victim(process, kind):
                    found.kill()
                    kills[kind] += 1
            now = {p: p.stat().st_mtime_ns for p in root.glob("tokens/*/part-*.json")}
            assert before.items() <= now.items()
            if kind != "worker":
                break
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        for each in [process, *leftovers(process)]:
            with suppress(psutil.Error, ProcessLookupError):
                each.kill()
        process.communicate()
    assert min(kills[kind] for kind in ("worker", "driver", "raylet")) > 2
    assert tokens_and_views(root) == tokens_and_views(tmp_path / "whole")


def leftovers(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """What a killed driver leaves below it."""
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def test_validation_of_a_large_source_is_drawn_from_some_of_its_parts(
    corpus, tmp_path, monkeypatch
):
    monkeypatch.setattr(plan, "DRAW_BYTES", 60_000)
    settings = {"tokenizer": {"kind": "bytes"}, "validation": {"tokens": 2048}}
    some = prepare(study(corpus, **settings), tmp_path / "some")
    again = prepare(study(corpus, **settings), tmp_path / "again")
    assert again.metadata["files"] == some.metadata["files"]
    monkeypatch.undo()
    for domain, path in corpus.items():
        whole = sum(len(json.loads(line)["text"]) for line in path.open())
        assert some.metadata["domains"][domain]["bytes"] == whole
        kept = np.count_nonzero(np.asarray(some.train(domain)) != 256)
        held = sum(some.validation(domain, half)[:, :-1].size for half in ("choose", "report"))
        assert whole - 2 * 1024 <= kept + held <= whole + 100
        held_texts = [
            text
            for half in ("choose", "report")
            for text in some.tokenizer.decode(
                np.fromfile(some.path / domain / f"{half}.bin", "<u2")
            ).split("<|endofdocument|>")[:-1]
        ]
        training = some.tokenizer.decode(np.asarray(some.train(domain)))
        assert held_texts
        assert not any(text in training for text in held_texts)
