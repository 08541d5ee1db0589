"""Model FLOPs utilization: which share of its devices' peak a run reaches."""

from __future__ import annotations

from sparsing.study.plan.accelerators import ACCELERATORS
from sparsing.study.plan.runs import Run, training_flops

BF16_PEAKS: dict[str, float] = {
    **{name: ACCELERATORS[name].peak_flops for name in ("A800", "A100", "H200")},
    "A30": 165e12,
    "A10": 125e12,
    "A40": 149.7e12,
    "L4": 121e12,
    "L40": 181.05e12,
    "L40S": 362.05e12,
    "H20": 148e12,
    "GH200": 989.4e12,
}
"""Dense bf16 FLOPs per second, by the model's name; H100 and H800 have several, by their form."""
HOPPER_PEAKS = {"PCIe": 756e12, "NVL": 835e12}
"""Of an H100 or H800 that is no SXM module, whose peak is the H200's."""


def device_peak_flops(device: str) -> float | None:
    """Peak FLOPs per second of the device that a row of `runs` names; None where it is unknown.

    device: as a shard writes it, `NVIDIA A800-SXM4-80GB, bfloat16, ZeRO 1`. Only bf16 has a peak
    here: what float32 could reach depends on whether TF32 is allowed.
    """
    name, _, rest = device.partition(", ")
    if not rest.startswith("bfloat16"):
        return None
    words = name.replace("-", " ").split()
    if "H100" in words or "H800" in words:
        return next((HOPPER_PEAKS[w] for w in words if w in HOPPER_PEAKS), BF16_PEAKS["H200"])
    return next((BF16_PEAKS[word] for word in words if word in BF16_PEAKS), None)


def mfu_ratio(
    run: Run, vocabulary: int, tokens_per_second: float, device: str, shards: int
) -> float | None:
    """Share of the peak of `shards` devices that training at this speed uses; None if unknown.

    FLOPs are those of `sparsing.study.plan.runs.training_flops`, forward and backward.
    """
    peak = device_peak_flops(device)
    if peak is None or shards < 1:
        return None
    return tokens_per_second * training_flops(run, vocabulary) / run.tokens / (peak * shards)
