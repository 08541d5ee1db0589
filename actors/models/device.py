"""Which device a process computes on; imports torch only."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from sparsing.study.errors import SparsingError

DRIVER = Path("/proc/driver/nvidia/version")


def pick_device() -> torch.device:
    """The first CUDA device this process may see, else the CPU."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def check_gpus_are_seen(given: int) -> None:
    """Return if torch sees the GPUs that a process was given: it must not compute on a CPU instead.

    Args:
        given: GPUs that Ray has reserved for the process.

    Raises:
        SparsingError: torch sees fewer; says which driver and CUDA there are, and what to do.
    """
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if seen >= given:
        return
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs"
    remedy = (
        "install a driver that is as new as that CUDA, or a torch for an older one"
        if torch.version.cuda
        else "install a CUDA build of torch there (`make study TORCH=cuda`)"
    )
    raise SparsingError(
        f"this shard was given {given} GPU and torch sees {seen}: NVIDIA driver "
        f"{driver_version() or 'not found'}, torch {torch.__version__} {built}; {remedy}, or write "
        "resources.gpus_per_shard: 0 to train on CPUs"
    )


def driver_version(file: Path = DRIVER) -> str | None:
    """Version of NVIDIA's driver on this machine; None where there is none."""
    try:
        found = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", file.read_text())
    except OSError:
        return None
    return found[1] if found else None
