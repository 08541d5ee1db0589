"""`sparsing bench data`: how fast text becomes tokens, and how fast training reads them.

The text is Python's standard library as JSONL, the tokenizer a BPE of 8,000 entries trained on it.
"Ours" is the work on a part as a preparation does it: read, tokenize, hash, compare with the
passages drawn for validation, write, flush, name. Every side has one thread, but for the case of
two workers. Where `datatrove` is installed its tokenization pipeline is timed on the same file.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil

from sparsing.actors.data.order import TrainingOrder
from sparsing.actors.data.pipeline.executors import RayTasks
from sparsing.actors.data.pipeline.work import PartInput, PartJob, work_on_part
from sparsing.actors.data.prepare import prepare
from sparsing.actors.data.sources.files import files_of
from sparsing.actors.data.sources.piece import Piece
from sparsing.actors.data.sources.reading import documents
from sparsing.actors.data.tokenizers import BpeTokenizer, save, train_bpe
from sparsing.actors.data.validating.duplicates import DuplicateSearch
from sparsing.actors.data.validating.passages import split
from sparsing.study.bench.bench import Case, compare, measured_once
from sparsing.study.definition.data import Source
from sparsing.study.definition.load import load_study

VOCABULARY = 8_000
TEXT_BYTES = 4_000_000
CANDIDATES = 400
"""Passages drawn for validation: about those of the default 65,536 tokens, four times over."""
PASSAGE_CHARACTERS = 4096
WORKER_PARTS = 6
READ_SEQUENCES = 20_000
NODES, STUB_SECONDS, SPAN_SECONDS = 64, 2.0, 60.0
STUB_PARTS = 100_000
OBJECT_STORE_BYTES = 80 * 2**20


class Corpus:
    """The text, its tokenizer, and a search for candidates, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        self.texts: list[str] = []
        size = 0
        for text in documents(Source(kind="python-stdlib")):
            if size >= TEXT_BYTES:
                break
            self.texts.append(text)
            size += len(text.encode())
        self.bytes = size
        self.file = folder / "text" / "text.jsonl"
        self.file.parent.mkdir()
        lines = (json.dumps({"text": text}) + "\n" for text in self.texts)
        self.file.write_text("".join(lines), encoding="utf-8")
        self.tokenizer: BpeTokenizer = train_bpe(self.texts[::8], VOCABULARY)
        save(self.tokenizer, folder / "tokenizer.json")
        passages = [p for text in self.texts for p in split(text, PASSAGE_CHARACTERS)]
        chosen = passages[:: max(1, len(passages) // CANDIDATES)]
        search = DuplicateSearch(chosen, list(range(-2, -2 - len(chosen), -1)), 0.7)
        (folder / "search.pickle").write_bytes(pickle.dumps(search))

    @cached_property
    def size(self) -> int:
        """Bytes of the file."""
        return self.file.stat().st_size

    def job(self, start: int = 0, end: int | None = None, number: int = 0) -> PartJob:
        """A part that nobody has made yet."""
        out = self.folder / "out" / uuid.uuid4().hex
        source = Source(kind="jsonl", path=str(self.file))
        part = (Piece(0, start, end),)
        return PartJob(
            input=PartInput(source=source, files=files_of(source), part=part, number=number),
            domain=0,
            tokens=out / "part",
            view=out / "view.npz",
            tokenizer=self.folder / "tokenizer.json",
            index=self.folder / "search.pickle",
            drawn={},
            passage_characters=PASSAGE_CHARACTERS,
            longest_passage=PASSAGE_CHARACTERS,
        )


@contextlib.contextmanager
def _corpus() -> Iterator[Corpus]:
    folder = Path(tempfile.mkdtemp(prefix="sparsing-bench-"))
    try:
        yield Corpus(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _one_worker(corpus: Corpus) -> float:
    """MB of text per second of a part's work."""
    began = time.perf_counter()
    work_on_part(corpus.job())
    return corpus.bytes / 1e6 / (time.perf_counter() - began)


def _bare(corpus: Corpus) -> float:
    """MB of text per second of encode_batch alone, on texts in memory."""
    inner = corpus.tokenizer._inner
    began = time.perf_counter()
    for start in range(0, len(corpus.texts), 64):
        inner.encode_batch(corpus.texts[start : start + 64], add_special_tokens=False)
    return corpus.bytes / 1e6 / (time.perf_counter() - began)


def _datatrove(corpus: Corpus) -> float:
    """MB of text per second of datatrove's reader and tokenizer."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    out = corpus.folder / "datatrove" / uuid.uuid4().hex
    tokenizer = DocumentTokenizer(
        output_folder=str(out),
        tokenizer_name_or_path=str(corpus.folder / "tokenizer.json"),
        eos_token="<|endofdocument|>",
        shuffle_documents=False,
    )
    executor = LocalPipelineExecutor(
        pipeline=[JsonlReader(str(corpus.file.parent)), tokenizer],
        logging_dir=str(out / "logs"),
        tasks=1,
        workers=1,
    )
    began = time.perf_counter()
    executor.run()
    return corpus.bytes / 1e6 / (time.perf_counter() - began)


def _has_datatrove() -> bool:
    try:
        import datatrove.pipeline.tokens  # noqa: F401
    except ImportError:
        return False
    logging.disable(logging.INFO)
    with contextlib.suppress(ImportError):
        from loguru import logger

        logger.remove()
    return True


def _workers(corpus: Corpus, workers: int) -> float:
    """MB of text per second of parts shared out to this number of Ray workers."""
    step = corpus.size // WORKER_PARTS + 1
    jobs = [
        corpus.job(start, None if start + step >= corpus.size else start + step, number)
        for number, start in enumerate(range(0, corpus.size, step))
    ]
    began = time.perf_counter()
    list(RayTasks(workers).map(work_on_part, jobs))
    return corpus.bytes / 1e6 / (time.perf_counter() - began)


def _scaling(corpus: Corpus, repeats: int) -> Case:
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        return compare(
            "text to tokens, two workers",
            lambda: _workers(corpus, 2),
            lambda: _workers(corpus, 1),
            baseline_name="one worker",
            unit="MB/s",
            better="higher",
            repeats=repeats,
        )
    finally:
        ray.shutdown()


def _reading(repeats: int) -> Case:
    """Sequences in training order, of the quickstart's data in many parts' files."""
    with tempfile.TemporaryDirectory(prefix="sparsing-bench-") as folder:
        data = prepare(load_study("quickstart"), Path(folder))
        order, tokens = TrainingOrder(data, 0), data.sequence_tokens
        flat = Path(folder) / "flat.bin"
        np.asarray(data.train("code")).tofile(flat)
        plain = np.memmap(flat, dtype=data.train("code").dtype, mode="r").view(np.ndarray)
        one = TrainingOrder(SimpleNamespace(**_plain_data(data, plain)), 0)  # type: ignore[arg-type]

        def speed(of: TrainingOrder) -> float:
            began = time.perf_counter()
            for first in range(0, READ_SEQUENCES, 64):
                of.sequences(first, 64)
            return READ_SEQUENCES * tokens / (time.perf_counter() - began)

        return compare(
            "reads in training order",
            lambda: speed(order),
            lambda: speed(one),
            baseline_name="one memory map",
            unit="tokens/s",
            better="higher",
            repeats=repeats,
        )


def _plain_data(data: Any, plain: np.ndarray) -> dict[str, Any]:
    return {
        "domains": data.domains,
        "weights": data.weights,
        "sequence_tokens": data.sequence_tokens,
        "train": lambda domain: plain,
        "train_sequences": data.train_sequences,
    }


def _stub(seconds: float) -> float:
    """A part's work, of which only the time is real."""
    time.sleep(seconds)
    return seconds


def _handing_out() -> list[Case]:
    """Parts handed out to 64 raylets on this machine: use of the workers, and the driver's cost."""
    import ray
    from ray.cluster_utils import Cluster

    shared = {"object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=shared | {"num_cpus": 0})
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        for _ in range(NODES):
            cluster.add_node(wait=False, num_cpus=1, **shared)
        cluster.wait_for_nodes(timeout=600)
        executor = RayTasks()
        list(executor.map(_stub, [0.5] * NODES * 4))  # every node's worker has started
        process = psutil.Process()
        jobs = iter([STUB_SECONDS] * STUB_PARTS)
        began, cpu, worked = time.monotonic(), time.process_time(), 0.0
        results = executor.map(_stub, jobs)
        for seconds in results:
            worked += seconds
            if time.monotonic() - began >= SPAN_SECONDS:
                break
        span = time.monotonic() - began
        share = 100 * (time.process_time() - cpu) / span
        memory = process.memory_info().rss
        results.close()  # type: ignore[attr-defined]
        what = f"{STUB_PARTS} parts for {NODES} raylets, {span:.0f} s of them"
        idle = 100 * (1 - worked / (NODES * span))
        return [
            _bar(f"idle, {what}", idle, "%", 5.0),
            _bar("driver's processor", share, "% of a core", 20.0),
            _bar("driver's memory", memory / 1e6, "MB", 500.0),
        ]
    finally:
        ray.shutdown()
        cluster.shutdown()


def _bar(name: str, value: float, unit: str, bar: float) -> Case:
    return measured_once(name, value, bar, baseline_name="the bar", unit=unit, better="lower")


def cases(repeats: int) -> list[Case]:
    """Tokenizing against bare tokenizing and datatrove, two workers, reading, handing out."""
    with _corpus() as corpus:
        sides = {"tokenizers' encode_batch": _bare}
        if _has_datatrove():
            sides["datatrove's tokenization pipeline"] = _datatrove
        found = [
            compare(
                "text to tokens, one worker",
                lambda: _one_worker(corpus),
                partial(side, corpus),
                baseline_name=name,
                unit="MB/s",
                better="higher",
                repeats=repeats,
            )
            for name, side in sides.items()
        ]
        found.append(_scaling(corpus, repeats))
    return [*found, _reading(repeats), *_handing_out()]
