"""The Triton kernels without a GPU: exact interpreted, and compiled for sm_80, sm_90."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import kernel_compiler
import pytest
from kernel_compiler import compile_kernel

from sparsing.kernels.gpu import decode as triton_decode
from sparsing.kernels.gpu import tiles as triton_tiles


def test_interpreted_kernels_are_exact() -> None:
    """In a process of its own: Triton interprets all kernels of a process, or none."""
    here = Path(kernel_compiler.__file__).parent
    tests = [str(here / f"interpreted_{name}.py") for name in ("decode", "tiles")]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-W", "ignore::RuntimeWarning", *tests]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kernel", ["gate", "products", "outputs", "total"])
def test_decode_kernels_keep_to_registers(kernel: str, dtype: str, capability: int) -> None:
    made = compile_kernel(triton_decode, kernel, dtype, capability)
    assert made.spilled_bytes == 0
    assert made.registers <= 128
    assert made.shared_bytes <= 48 * 1024
    if kernel in ("gate", "products"):
        assert made.asynchronous_copies > 0, "the loop over d_h is not pipelined"


@pytest.mark.parametrize("activation", triton_decode.ACTIVATIONS)
def test_every_activation_compiles(activation: str) -> None:
    assert compile_kernel(triton_decode, "gate", "float16", 80, activation).spilled_bytes == 0


@pytest.mark.parametrize(
    ("dtype", "capability"), [("bfloat16", 80), ("bfloat16", 90), ("float32", 80)]
)
@pytest.mark.parametrize(
    ("module", "kernel"),
    [
        (triton_tiles, "lists"),
        (triton_tiles, "products"),
        (triton_tiles, "outputs"),
    ],
)
def test_kernels_of_many_tokens_keep_to_registers(
    module: ModuleType, kernel: str, dtype: str, capability: int
) -> None:
    made = compile_kernel(module, kernel, dtype, capability)
    assert made.spilled_bytes == 0
    # Float32 has no tensor cores here, and holds more.
    assert made.registers <= (128 if dtype == "bfloat16" else 168)
    assert made.shared_bytes <= 48 * 1024
    if kernel != "lists":
        assert made.asynchronous_copies > 0, "the loop over what is summed is not pipelined"
