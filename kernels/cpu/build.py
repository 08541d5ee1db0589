"""Compiles kernels/cpu/*.cpp for this processor, once, and loads them.

The library lies in `SPARSING_KERNEL_CACHE` (default `~/.cache/sparsing/kernels`), named by the
hash of all that it depends on: sources, flags, compiler, processor. It is moved there when it is
whole, so that processes need no lock and never see half a file: two that start together compile
twice, and the second replaces the first's by an equal one.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
SOURCES = [HERE / "ffn.cpp", HERE / "walk.cpp"]
READ = [*SOURCES, HERE / "lanes.h"]
"""Sources and what they include."""
FLAGS = ["-O3", "-march=native", "-std=c++17", "-fPIC", "-shared", "-fopenmp"]
COMPILE_SECONDS = 600


@lru_cache(maxsize=1)
def compiled() -> ctypes.CDLL | None:
    """The compiled functions; None where no compiler made them, which is logged once."""
    compiler = shutil.which(os.environ.get("CXX") or "c++") or shutil.which("g++")
    if compiler is None:
        log.warning("no C++ compiler (c++, g++ or $CXX): sparse FFNs gather with torch, slower")
        return None
    try:
        return ctypes.CDLL(str(library(compiler, cache_folder())))
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip().splitlines()[:1]
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = [str(error)]
    log.warning("%s cannot compile %s %s: sparse FFNs gather with torch", compiler, HERE, reason)
    return None


def call(
    name: str, before: list[Tensor | None], sizes: list[int], after: list[Tensor | None]
) -> None:
    """Call a compiled function: tensors, sizes, tensors, and the number of threads."""
    function = getattr(compiled(), name)
    if function.argtypes is None:
        kinds = (ctypes.c_void_p, before), (ctypes.c_int64, sizes), (ctypes.c_void_p, after)
        function.argtypes = [kind for kind, some in kinds for _ in some] + [ctypes.c_int]
    pointers = [[t if t is None else t.data_ptr() for t in some] for some in (before, after)]
    function(*pointers[0], *sizes, *pointers[1], torch.get_num_threads())


def cache_folder() -> Path:
    """Where compiled libraries are kept."""
    if named := os.environ.get("SPARSING_KERNEL_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparsing/kernels"


def library(compiler: str, folder: Path) -> Path:
    """The library of these sources, compiler and processor; compiled if it is not there yet.

    Raises:
        subprocess.CalledProcessError: the compiler failed.
        OSError: the folder cannot be written.
    """
    version = _run([compiler, "--version"])
    about = "\0".join([*FLAGS, version, _processor()]).encode()
    text = b"\0".join(path.read_bytes() for path in READ)
    path = folder / f"cpu-{hashlib.sha256(text + about).hexdigest()[:24]}.so"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=folder) as made:
            unfinished = Path(made) / path.name
            _run([compiler, *FLAGS, *map(str, SOURCES), "-o", str(unfinished)])
            unfinished.replace(path)
        log.info("compiled %s", path)
    return path


def _run(command: list[str]) -> str:
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=COMPILE_SECONDS
    )
    return done.stdout


def _processor() -> str:
    """What `-march=native` depends on: the processor's model and its instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))
