"""A process that was given GPUs and sees none fails at once, with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sparsing.actors.models.device import check_gpus_are_seen, driver_version, pick_device
from sparsing.study.errors import SparsingError


def test_without_gpus_given_nothing_is_asked() -> None:
    check_gpus_are_seen(0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU that torch sees")
def test_a_gpu_that_torch_does_not_see_is_refused() -> None:
    assert pick_device().type == "cpu"
    with pytest.raises(SparsingError) as caught:
        check_gpus_are_seen(1)
    for word in (torch.__version__, "driver", "gpus_per_shard: 0"):
        assert word in str(caught.value)


def test_the_driver_s_version(tmp_path: Path) -> None:
    file = tmp_path / "version"
    assert driver_version(file) is None
    file.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 2024\n")
    assert driver_version(file) == "550.54.15"
    file.write_text("something else")
    assert driver_version(file) is None
