"""Accelerators: peak, memory, bandwidth and link of each, with where the figures come from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """One GPU of a kind, by its maker's figures."""

    name: str
    peak_flops: float
    """Dense bf16, per second."""
    memory_bytes: float
    bandwidth: float
    """Of its memory, bytes per second."""
    link: float
    """To its neighbours of a node, bytes per second in one direction."""
    source: str


ACCELERATORS = {
    each.name: each
    for each in (
        Accelerator(
            name="A800",
            peak_flops=312e12,
            memory_bytes=80e9,
            bandwidth=2.039e12,
            link=200e9,
            source="NVIDIA A800 80GB SXM: an A100 whose NVLink has 400 GB/s both ways together",
        ),
        Accelerator(
            name="A100",
            peak_flops=312e12,
            memory_bytes=80e9,
            bandwidth=2.039e12,
            link=300e9,
            source="NVIDIA A100 datasheet, 80GB SXM: NVLink 600 GB/s both ways together",
        ),
        Accelerator(
            name="H100",
            peak_flops=989.4e12,
            memory_bytes=80e9,
            bandwidth=3.35e12,
            link=450e9,
            source="NVIDIA H100 datasheet, SXM: NVLink 900 GB/s both ways together",
        ),
        Accelerator(
            name="H200",
            peak_flops=989.4e12,
            memory_bytes=141e9,
            bandwidth=4.8e12,
            link=450e9,
            source="NVIDIA H200 datasheet, SXM: NVLink 900 GB/s both ways together",
        ),
    )
}

PUBLISHED_MFU = {
    ("A100", "MPT 3B, 8 GPUs, sequences of 8192"): 0.593,
    ("A100", "MPT 7B, 8 GPUs, sequences of 4096, recomputed activations"): 0.548,
    ("H100", "MPT 760M, 8 GPUs, sequences of 4096"): 0.358,
    ("H100", "MPT 1B, 8 GPUs, sequences of 4096"): 0.403,
    ("H100", "MPT 3B, 8 GPUs, sequences of 4096"): 0.423,
}
"""What others measured: mosaicml/llm-foundry, scripts/train/benchmarking/README.md."""
