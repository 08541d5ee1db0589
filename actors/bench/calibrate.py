"""Rates of this machine's training, for `sparsing plan`, and how near its estimates come.

    sparsing bench train --calibrate rates.json     measures small models, writes their rates
    sparsing bench plan                             the same, then three other sizes against them

On a processor all times are those of the shard's own thread, which on an idle core are seconds: so
that work beside it disturbs little. On a GPU they are seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil
import torch

from sparsing.actors.bench.train import working_shard
from sparsing.actors.training.checkpoint_write import write_shard
from sparsing.actors.training.shard import TrainingShard, memory_bytes
from sparsing.study.bench.bench import Case, machine, measured_once
from sparsing.study.definition.model import Shape
from sparsing.study.plan.mfu import device_peak_flops
from sparsing.study.plan.rates import Rates, step_time
from sparsing.study.plan.runs import CHECKPOINT_BYTES_PER_PARAMETER, Run
from sparsing.study.plan.work import StepWork, memory_of, step_work

Model = tuple[int, int, int]
"""d_h, layers, and sequences of a batch."""
CPU_SHAPES = (
    *((32, 2, 8), (32, 8, 16), (64, 4, 8), (96, 8, 4), (128, 2, 16), (160, 4, 4)),
    *((256, 2, 2), (256, 5, 8)),
)
"""The models that rates are measured on: no two terms of a step grow together in all of them."""
CPU_TRUTHS = ((48, 4, 8), (128, 5, 4), (224, 4, 8))
GPU_SHAPES = ((512, 4, 64), (768, 8, 8), (1024, 12, 16), (1280, 8, 32), (1536, 16, 8), (1792, 8, 8))
GPU_TRUTHS = ((768, 16, 16), (1280, 16, 8), (1792, 16, 16))
BLOCKS, BLOCK_STEPS = 8, 4
TRUTH_STEPS = 40
UNLIMITED = 1e18
"""The rate of a term that took no time."""


def shape_of(d_h: int, layers: int) -> Shape:
    """A shape with heads of 16 to 64."""
    size = next(s for s in (64, 32, 16) if d_h % s == 0 and (d_h >= 512 or s <= 32))
    return Shape(d_h=d_h, layers=layers, d_f=5 * d_h // 2, heads=d_h // size)


def calibrate(shapes: tuple[Model, ...] | None = None) -> Rates:
    """Measure training steps of small models here, and find the rates that explain them."""
    torch.set_num_threads(1)
    cuda = torch.cuda.is_available()
    works, seconds = [], []
    written = UNLIMITED
    for d_h, layers, batch in shapes or (GPU_SHAPES if cuda else CPU_SHAPES):
        with working_shard(shape_of(d_h, layers), batch) as shard:
            works.append(_work(shard))
            seconds.append(step_seconds(shard))
            written = _written_per_second(shard)
            device, weight_bytes = _device(shard), 2 if shard.engine.dtype == torch.bfloat16 else 4
    costs = explain(works, seconds)
    tiny = train_apart(*(GPU_SHAPES if cuda else CPU_SHAPES)[0])
    return Rates(
        device=device,
        source=f"measured {datetime.now(UTC):%Y-%m-%d}, {machine()}, torch {torch.__version__}",
        matmul_flops=costs[0],
        attention_flops=costs[1],
        elementwise_bytes=costs[2],
        optimizer_bytes=costs[3],
        layer_call_seconds=1 / costs[4],
        step_seconds=1 / costs[5],
        exchange_bytes=1e9,
        process_bytes=tiny["process_bytes"],
        memory_bytes=_memory(cuda),
        weight_bytes=weight_bytes,
        host_overlaps=cuda,
        checkpoint_bytes=written,
        start_seconds=tiny["start_seconds"],
        peak_flops=device_peak_flops(f"{device}, bfloat16") if cuda else None,
    )


def explain(works: list[StepWork], seconds: list[float]) -> list[float]:
    """Rates of the terms of `StepWork.measured_terms` whose times add up to the seconds.

    The least relative squares with no term below 0.
    """
    from scipy.optimize import nnls

    terms = np.array([work.measured_terms() for work in works])
    scale = terms.max(axis=0)
    rows = terms / scale / np.array(seconds)[:, None]
    costs, _ = nnls(rows, np.ones(len(seconds)))
    return [float(s / c) if c > 0 else UNLIMITED for c, s in zip(costs, scale, strict=True)]


def _memory(cuda: bool) -> float:
    if cuda:
        return 0.94 * torch.cuda.get_device_properties(0).total_memory
    return float(psutil.virtual_memory().total)


def _device(shard: TrainingShard) -> str:
    if shard.engine.device.type == "cuda":
        return torch.cuda.get_device_name(shard.engine.device)
    return "CPU, one thread"


def _work(shard: TrainingShard) -> StepWork:
    return step_work(
        shard.run,
        shard.config.vocabulary_size,
        shards=1,
        micro=shard.engine.micro_sequences,
        weight_bytes=2 if shard.engine.dtype == torch.bfloat16 else 4,
    )


def clock(device: torch.device) -> Callable[[], float]:
    """Seconds, as the module's docstring says."""
    if device.type == "cpu":
        return time.thread_time

    def seconds() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return seconds


def step_seconds(shard: TrainingShard, first: int = 0) -> float:
    """Time of one optimizer step: the median of blocks."""
    now = clock(shard.engine.device)
    index = first
    for _ in range(2):
        shard.compute(index)
        index += 1
    blocks = []
    for _ in range(BLOCKS):
        began = now()
        for _ in range(BLOCK_STEPS):
            shard.compute(index)
            index += 1
        blocks.append((now() - began) / BLOCK_STEPS)
    return float(np.median(blocks))


def _written_per_second(shard: TrainingShard) -> float:
    parameters = shard.run.parameters + shard.config.vocabulary_size * shard.run.d_h
    now = clock(shard.engine.device)
    with tempfile.TemporaryDirectory(prefix="sparsing-bench-") as folder:
        began = now()
        write_shard(shard.engine, Path(folder) / "step-000000001", 1, 0, 1)
        return CHECKPOINT_BYTES_PER_PARAMETER * parameters / (now() - began)


def train_apart(d_h: int, layers: int, batch: int) -> dict[str, float]:
    """A training of TRUTH_STEPS and a checkpoint in a process of its own: times and memory."""
    code = (
        f"from sparsing.actors.bench import calibrate; calibrate._train({d_h}, {layers}, {batch})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def _train(d_h: int, layers: int, batch: int) -> None:
    """What `train_apart` runs; prints one JSON document."""
    torch.set_num_threads(1)
    with working_shard(shape_of(d_h, layers), batch) as shard:
        started = time.process_time()
        device = shard.engine.device
        parts = _parts(shard, 0.0)
        now = clock(device)
        began = now()
        shard.compute(0)
        first = now() - began
        began = now()
        for index in range(1, TRUTH_STEPS):
            shard.compute(index)
        stepping = now() - began
        peak = memory_bytes(device)
        with tempfile.TemporaryDirectory(prefix="sparsing-bench-") as folder:
            write_shard(shard.engine, Path(folder) / "step-000000001", 1, 0, 1)
        total = started + first + now() - began
    print(
        json.dumps(
            {
                "step_seconds": stepping / (TRUTH_STEPS - 1),
                "start_seconds": started + first - stepping / (TRUTH_STEPS - 1),
                "total_seconds": total,
                "memory_bytes": peak,
                "process_bytes": peak - parts,
            }
        )
    )


def _parts(shard: TrainingShard, process_bytes: float) -> float:
    return memory_of(
        shard.run,
        shard.config.vocabulary_size,
        shards=1,
        micro=shard.engine.micro_sequences,
        weight_bytes=2 if shard.engine.dtype == torch.bfloat16 else 4,
        process_bytes=process_bytes,
    ).total


def cases(repeats: int) -> list[Case]:
    """Estimates of three sizes that were not calibrated on, against what they take here."""
    del repeats
    rates = calibrate()
    cuda = torch.cuda.is_available()
    found = []
    for d_h, layers, batch in GPU_TRUTHS if cuda else CPU_TRUTHS:
        with working_shard(shape_of(d_h, layers), batch) as shard:
            work, memory = _work(shard), _parts(shard, rates.process_bytes)
            run, vocabulary = shard.run, shard.config.vocabulary_size
        true = train_apart(d_h, layers, batch)
        step = step_time(work, rates).total
        name = f"{d_h} x {layers}, {batch} sequences"
        pairs = (
            ("step", step, true["step_seconds"], "s"),
            ("peak memory", memory / 1e6, true["memory_bytes"] / 1e6, "MB"),
            ("start to end", _total(run, vocabulary, step, rates), true["total_seconds"], "s"),
        )
        found += [
            measured_once(
                f"{what} of {name}", estimate, measured, baseline_name="measured", unit=unit,
                better="higher",
            )
            for what, estimate, measured, unit in pairs
        ]  # fmt: skip
    return found


def _total(run: Run, vocabulary: int, step: float, rates: Rates) -> float:
    checkpoint = CHECKPOINT_BYTES_PER_PARAMETER * (run.parameters + vocabulary * run.d_h)
    return rates.start_seconds + TRUTH_STEPS * step + checkpoint / rates.checkpoint_bytes
