"""The decode kernels without a GPU: exact interpreted, and compiled for sm_80, sm_90."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from decode_compiler import KERNELS, compile_kernel

from kernels import triton_decode


def test_interpreted_kernels_are_exact() -> None:
    """In a process of its own: Triton interprets all kernels of a process, or none."""
    tests = Path(__file__).with_name("interpreted_decode.py")
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-W", "ignore::RuntimeWarning", str(tests)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_compiled_kernels_keep_to_registers(kernel: str, dtype: str, capability: int) -> None:
    made = compile_kernel(kernel, dtype, capability)
    assert made.spilled_bytes == 0
    assert made.registers <= 128
    assert made.shared_bytes <= 48 * 1024
    if kernel in ("gate", "products"):
        assert made.asynchronous_copies > 0, "the loop over d_h is not pipelined"


@pytest.mark.parametrize("activation", triton_decode.ACTIVATIONS)
def test_every_activation_compiles(activation: str) -> None:
    assert compile_kernel("gate", "float16", 80, activation).spilled_bytes == 0
