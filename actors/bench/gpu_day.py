"""`sparsing bench gpu --out results.json`: everything that never ran on a GPU, in one call.

Each part runs in a process of its own with a time limit, so that one that fails or hangs costs only
itself; the file is written again after each. `--dry-run` walks through every part at toy size, also
where there is no GPU. Kernels are compared with dense results before they are timed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import torch

from sparsing.study.bench.bench import Case, machine
from sparsing.study.errors import RunsFailedError

RMS_ERROR = 0.005
"""Largest error of a kernel against the dense product, relative and in bfloat16."""
SCALES = {"0.1B": (768, 16, 32_000), "0.4B": (1280, 24, 32_000), "1.2B": (1792, 32, 122_753)}
"""d_h, layers and vocabulary of the training steps."""
TOY_SCALES = {"toy": (32, 2, 320)}
SEQUENCE_TOKENS = 4096
WINS = 1.02
"""A kernel goes into a table where it is at least this many times as fast."""


def versions() -> dict[str, Any]:
    """Device, its memory, and the versions of what computes on it."""
    import triton

    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else "none: dry run on a CPU",
        "memory_bytes": torch.cuda.get_device_properties(0).total_memory if cuda else None,
        "machine": machine(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
    }


def tests(dry: bool) -> Any:
    """The tests of the kernels, where the repository is at hand."""
    folder = Path(__file__).resolve().parents[2] / "tests" / "kernels"
    if not folder.is_dir():
        return {"skipped": "the tests are not beside the package"}
    chosen = [folder / "gpu" / "test_interpreted.py"] if dry else [folder]
    options = ["--collect-only"] if dry else []
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", *options, *map(str, chosen)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder.parents[1])
    last = done.stdout.strip().splitlines()[-1:]
    if done.returncode:
        raise RuntimeError(f"tests failed: {done.stdout[-2000:]}")
    return {"pytest": last}


def kernels(dry: bool) -> Any:
    """Decode and tile kernels by shape: errors against dense products, speed against cuBLAS."""
    from sparsing.actors.bench import ffn

    if not torch.cuda.is_available():
        with torch.no_grad():
            layers = ffn.Layers(64, 160, 2, 0.9)
            error = _error(layers.sparse[0](layers.x), layers.dense[0](layers.x))
            return {"errors": {"toy": error}, "cases": _rows(ffn.processor_cases("toy", layers, 1))}
    found: list[Case] = []
    with torch.no_grad():
        errors = {f"{name}, {n} tokens": _decode_error(name, n) for name, n in _decode_shapes(dry)}
        if wrong := {name: each for name, each in errors.items() if each > RMS_ERROR}:
            raise RuntimeError(f"kernels give other results than dense products: {wrong}")
        for name in list(ffn.SHAPES)[: 1 if dry else None]:
            found += ffn.gpu_cases(name, 1 if dry else 3)
            found += ffn.gpu_training_cases(name, 1 if dry else 3)
    return {"errors": errors, "cases": _rows(found), "crossover": _crossover(found)}


def _decode_shapes(dry: bool) -> list[tuple[str, int]]:
    from sparsing.actors.bench import ffn

    return [(name, tokens) for name in ffn.SHAPES for tokens in ffn.TOKENS][: 1 if dry else None]


def _decode_error(name: str, tokens: int) -> float:
    from sparsing.actors.bench import ffn
    from sparsing.kernels.ops import decode_output, packed

    d_h, d_f = ffn.SHAPES[name]
    layers = ffn.Layers(d_h, d_f, tokens, 0.9, device="cuda", dtype=torch.bfloat16)
    one = layers.dense[0]
    w_gate, w_in, w_out = (each.weight for each in (one.w_gate, one.w_in, one.w_out))
    ours = decode_output(layers.x, w_gate, w_in, packed(w_out), "relu")
    gate = torch.relu(layers.x @ w_gate.T)
    return _error(ours, (gate * (layers.x @ w_in.T)) @ w_out.T)


def _error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    ours, theirs = ours.float(), theirs.float()
    return float((ours - theirs).square().mean().sqrt() / theirs.square().mean().sqrt())


def _crossover(cases: list[Case]) -> dict[str, Any]:
    """What `kernels.crossover` may hold of this device: where kernels win with nothing weak."""
    wins = [
        int(case.case.split(", ")[3].split()[0])
        for case in cases
        if case.case.startswith("decode") and " 0% weak" in case.case and case.ratio >= WINS
    ]
    return {"DECODING": {torch.cuda.get_device_name(): {"tokens_bfloat16": max(wins, default=0)}}}


def decode(dry: bool) -> Any:
    """Decoding, sparse against dense."""
    from sparsing.actors.bench import decode as bench
    from sparsing.actors.models.transformer import ModelConfig

    config = bench.CONFIG
    if dry:
        config = ModelConfig(**asdict(config) | {"d_h": 64, "d_f": 160, "heads": 1, "layers": 2})
    return {"cases": _rows(bench.cases_of(config, 8 if dry else 40, 2))}


def metric(dry: bool) -> Any:
    """A measurement of the metric on this device: seconds, and what it found."""
    from sparsing.actors.bench.calibrate import shape_of
    from sparsing.actors.bench.train import working_shard
    from sparsing.actors.training.evaluate import mean_loss

    with working_shard(shape_of(*((32, 2) if dry else (768, 8)))) as shard:
        data, engine = shard.data, shard.engine
        domain = next(iter(data.domains))
        began = time.perf_counter()
        loss = mean_loss(
            engine.deepspeed,
            data.validation(domain, "report"),
            batch=engine.micro_sequences,
            device=engine.device,
            rank=0,
            world_size=1,
        )
        return {"loss": loss, "seconds": time.perf_counter() - began}


def train(dry: bool) -> Any:
    """Training steps by scale, compiled and not: seconds, MFU, memory against what `plan` says."""
    return [
        _step(name, *shape, micro=micro, compiled=compiled, dry=dry)
        for name, shape in (TOY_SCALES if dry else SCALES).items()
        for micro in ((1,) if dry else (1, 4))
        for compiled in (False, True)
    ]


def _step(
    name: str, d_h: int, layers: int, vocabulary: int, *, micro: int, compiled: bool, dry: bool
) -> dict[str, Any]:
    from sparsing.actors.bench.model_step import timed_step

    case = {"scale": name, "vocabulary": vocabulary, "micro": micro, "compiled": compiled}
    tokens = 64 if dry else SEQUENCE_TOKENS
    try:
        return case | timed_step(d_h, layers, vocabulary, tokens, micro, compiled=compiled)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        return case | {"error": str(error)[:300]}


def calibration(dry: bool) -> Any:
    """The rates of `sparsing bench train --calibrate`, for `sparsing plan --calibration`."""
    from sparsing.actors.bench.calibrate import CPU_SHAPES, calibrate

    return asdict(calibrate(CPU_SHAPES[:3] if dry else None))


PARTS: dict[str, tuple[Callable[[bool], Any], int]] = {
    "kernels": (kernels, 120),
    "train": (train, 150),
    "calibration": (calibration, 90),
    "decode": (decode, 45),
    "metric": (metric, 30),
    "tests": (tests, 90),
}
"""Each with its limit in seconds: together under eight minutes, but for what starts each."""


def run_parts(out: Path, *, dry: bool, names: tuple[str, ...] = ()) -> dict[str, Any]:
    """Run the parts, or some, and write what they found; raises RunsFailedError where one failed.

    out: a JSON file with device, versions, date, and for each part its result or its error.
    """
    if not dry and not torch.cuda.is_available():
        raise click.UsageError("there is no GPU here; --dry-run walks through at toy size")
    began = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    document: dict[str, Any] = {"date": began, "dry_run": dry, **versions(), "parts": {}}
    for name in names or PARTS:
        started = time.monotonic()
        found = _apart(name, dry)
        found["seconds"] = round(time.monotonic() - started, 1)
        document["parts"][name] = found
        out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        click.echo(f"{name}: {'failed, ' if 'error' in found else ''}{found['seconds']} s")
    failed = [name for name, found in document["parts"].items() if "error" in found]
    if failed:
        raise RunsFailedError(f"{out}: these parts failed: {', '.join(failed)}")
    return document


def _apart(name: str, dry: bool) -> dict[str, Any]:
    """A part in a process of its own; its result, or why there is none."""
    limit = PARTS[name][1] * (5 if dry else 1)
    with tempfile.TemporaryDirectory(prefix="sparsing-gpu-") as folder:
        result = Path(folder) / "result.json"
        call = f"gpu_day.run_part({name!r}, {dry}, {str(result)!r})"
        command = [sys.executable, "-c", f"from sparsing.actors.bench import gpu_day; {call}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            return {"error": f"it took longer than {limit} s"}
        if done.returncode:
            return {"error": (done.stderr or done.stdout)[-3000:]}
        return {"result": json.loads(result.read_text())}


def run_part(name: str, dry: bool, result: str) -> None:
    """What the process of a part runs."""
    found = PARTS[name][0](dry)
    Path(result).write_text(json.dumps(found))


def _rows(cases: list[Case]) -> list[dict[str, Any]]:
    return [asdict(case) for case in cases]
