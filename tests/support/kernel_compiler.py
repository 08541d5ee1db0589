"""Compiles the Triton kernels for GPUs that need not be there, and reads what came out."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sparsing.kernels.gpu import decode as triton_decode

TYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
WHOLE = ("places", "counts", "listed", "totals")
SIZES = ("d_h", "d_f", "blocks", "capacity", "splits", "rows", "inner", "d", "row_stride")


@dataclass(frozen=True)
class Compiled:
    """What one kernel needs of a GPU."""

    registers: int
    """For each thread."""
    spilled_bytes: int
    """Stack of each thread: what did not fit into registers."""
    shared_bytes: int
    asynchronous_copies: int
    """Instructions that copy into shared memory while others compute."""


def compile_kernel(
    module: ModuleType,
    name: str,
    dtype: str,
    capability: int,
    activation: str = "relu",
    d_f: int = 5760,
) -> Compiled:
    """Compile a kernel of a module for `sm_<capability>`, as the module launches it.

    Args:
        dtype: of the weights: a key of `TYPES`.
        activation: of the gate.
        d_f: number of neurons, which the products kernel for decoding is compiled for.
    """
    kernel: Any = getattr(module, f"{name}_kernel")
    blocks = triton.next_power_of_2(triton.cdiv(d_f, triton_decode.NEURONS))
    # What is contiguous has a stride of 1, which the launcher compiles in.
    constants = {"ACTIVATION": activation, "BLOCKS": blocks, "HAS_THRESHOLDS": True}
    constants |= {"inner_stride": 1} | vars(module)
    signature = {name: _type(name, TYPES[dtype]) for name in kernel.arg_names}
    source = ASTSource(
        kernel,
        signature,
        constexprs={n: constants[n] for n, kind in signature.items() if kind == "constexpr"},
        attrs={(at,): [["tt.divisibility", 16]] for at in _aligned(kernel.arg_names)},
    )
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    registers, stack = _resources(made.asm["cubin"])
    return Compiled(
        registers=registers,
        spilled_bytes=stack,
        shared_bytes=made.metadata.shared,
        asynchronous_copies=made.asm["ptx"].count("cp.async.c"),
    )


def _type(argument: str, weights: str) -> str:
    if argument.isupper() or argument == "inner_stride":
        return "constexpr"
    if argument in SIZES:
        return "i32"
    if argument in WHOLE:
        return "*i32"
    if argument == "active":
        return "*u8"
    if argument == "eps":
        return "fp32"
    wide = ("thresholds", "partial", "norms", "weak")
    return "*fp32" if argument in wide else f"*{weights}"


def _aligned(arguments: list[str]) -> list[int]:
    """Places of pointers, and of sizes that are multiples of 16, as the launcher finds them."""
    return [
        at
        for at, name in enumerate(arguments)
        if not name.isupper() and name not in ("blocks", "splits", "inner_stride", "eps")
    ]


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers and stack bytes of a thread, as `cuobjdump` tells them."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        told = subprocess.run(
            [str(tool), "-res-usage", file.name], check=True, capture_output=True, text=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", told)
    if found is None:
        raise RuntimeError(f"cuobjdump told no registers: {told}")
    return int(found[1]), int(found[2])
