"""One training step of a model alone, on this device: time, memory, and how near `plan` comes."""

from __future__ import annotations

import gc
import statistics
import time
from typing import Any

import torch

from sparsing.actors.models.compiling import compile_layers
from sparsing.actors.models.transformer import ModelConfig, Transformer, parameter_groups
from sparsing.study.definition.shapes import default_d_f, nonembedding_parameters
from sparsing.study.plan.mfu import device_peak_flops

STEPS = 5


def timed_step(
    d_h: int, layers: int, vocabulary: int, tokens: int, micro: int, *, compiled: bool
) -> dict[str, Any]:
    """Seconds of forward, backward and AdamW for `micro` sequences, MFU, peak memory, loss.

    In bfloat16 with float32 AdamW states on GPUs, in float32 on CPUs.
    """
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    d_f = default_d_f(d_h)
    config = ModelConfig(
        d_h=d_h,
        layers=layers,
        d_f=d_f,
        heads=max(1, d_h // 64),
        activation="relu",
        vocabulary_size=vocabulary,
    )
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    model = Transformer(config).initialize(0).to(device, torch.bfloat16 if cuda else torch.float32)
    if compiled:
        compile_layers(model)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), lr=1e-4, fused=True)
    generator = torch.Generator().manual_seed(0)
    data = torch.randint(vocabulary, (micro, tokens + 1), generator=generator).to(device)

    def step() -> float:
        started = time.perf_counter()
        loss = model(data[:, :-1], data[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found = float(loss)  # waits for the device
        seconds.append(time.perf_counter() - started)
        return found

    seconds: list[float] = []
    losses = [step() for _ in range(STEPS + 2)]
    typical = statistics.median(seconds[2:])
    count = micro * tokens
    parameters = nonembedding_parameters(d_h, layers, d_f) + vocabulary * d_h
    flops = 6.0 * (parameters + layers * d_h * tokens) * count
    name = torch.cuda.get_device_name() if cuda else "CPU"
    peak = device_peak_flops(f"{name}, bfloat16")
    return {
        "seconds": typical,
        "first_seconds": seconds[0],
        "tokens_per_second": count / typical,
        "mfu": flops / typical / peak if peak else None,
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if cuda else None,
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }
