from __future__ import annotations

import pytest
from stores import tiny_study

from sparsing.study.plan.mfu import device_peak_flops, mfu_ratio
from sparsing.study.plan.runs import plan_runs, training_flops


@pytest.mark.parametrize(
    ("device", "teraflops"),
    [
        ("NVIDIA A800-SXM4-80GB, bfloat16, ZeRO 1", 312),
        ("NVIDIA A100-PCIE-40GB, bfloat16, ZeRO 0", 312),
        ("NVIDIA H100 80GB HBM3, bfloat16, ZeRO 1", 989.4),
        ("NVIDIA H100 PCIe, bfloat16, ZeRO 1", 756),
        ("NVIDIA H100 NVL, bfloat16, ZeRO 1", 835),
        ("NVIDIA H800, bfloat16, ZeRO 1", 989.4),
        ("NVIDIA GH200 480GB, bfloat16, ZeRO 1", 989.4),
        ("NVIDIA A10, bfloat16, ZeRO 1", 125),
        ("NVIDIA A800-SXM4-80GB, float32, ZeRO 1", None),
        ("CPU, float32, ZeRO 0", None),
        ("NVIDIA B9000, bfloat16, ZeRO 1", None),
        ("", None),
    ],
)
def test_peaks_are_known_by_name_or_not_at_all(device, teraflops):
    peak = device_peak_flops(device)
    assert peak == (None if teraflops is None else pytest.approx(teraflops * 1e12))


def test_mfu_is_one_at_the_speed_that_the_peak_allows():
    run = plan_runs(tiny_study())[0]
    device = "NVIDIA A800-SXM4-80GB, bfloat16, ZeRO 1"
    fastest = 8 * 312e12 * run.tokens / training_flops(run, 32_000)
    assert mfu_ratio(run, 32_000, fastest, device, 8) == pytest.approx(1.0)
    assert mfu_ratio(run, 32_000, fastest, device, 16) == pytest.approx(0.5)
    assert mfu_ratio(run, 32_000, fastest, "CPU, float32, ZeRO 0", 8) is None
