"""Which device a process computes on; imports torch only."""

from __future__ import annotations

import torch


def pick_device() -> torch.device:
    """The first CUDA device this process may see, else the CPU."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
