"""Whether a study can run on this machine: what is there, what is missing, what to do about it.

Heavy packages are imported in processes of their own, so that a broken one is a line, not a crash.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import psutil
from packaging.requirements import Requirement

from sparsing.study.ray_address import token_problem

IMPORT_SECONDS = 120
GIGABYTE = 10**9
NEEDED_DISK_BYTES = 1 * GIGABYTE
NEEDED_MEMORY_BYTES = 2 * GIGABYTE
NEEDED_SHARED_MEMORY_BYTES = GIGABYTE // 10
NEEDED_OPEN_FILES = 1024
NEEDED_THREADS = 1024

_TORCH = """
import json, torch, torch.distributed as d
devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
print(json.dumps({
    "version": torch.__version__, "cuda": torch.version.cuda,
    "gloo": d.is_available() and d.is_gloo_available(),
    "nccl": d.is_available() and d.is_nccl_available(),
    "bf16": bool(devices) and torch.cuda.is_bf16_supported(),
    "devices": [{"name": p.name, "memory": p.total_memory} for p in devices]}))
"""
_OTHER = "import json, {0}; print(json.dumps({{'version': {0}.__version__}}))"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One finding."""

    name: str
    status: Literal["ok", "note", "fail"]
    """`note`: a study runs, but there is something to know; `fail`: it cannot run."""
    found: str
    remedy: str = ""


def checks(address: str | None = None) -> list[Check]:
    """All findings about this machine, and about talking to a cluster; takes some seconds."""
    torch, problem = _probe(_TORCH)
    return [
        *_python_and_packages(),
        *_torch(torch, problem),
        _import("ray"),
        _import("deepspeed"),
        _compiler(bool(torch.get("devices"))),
        _cpus(),
        _room("memory", psutil.virtual_memory().available, NEEDED_MEMORY_BYTES),
        _room("disk", shutil.disk_usage(Path.cwd()).free, NEEDED_DISK_BYTES),
        _shared_memory(),
        *_limits(),
        _network(),
        *_cluster(address),
    ]


def _python_and_packages() -> Iterator[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= (3, 11)
    yield _check("python", good, version, "install Python 3.11 or newer")
    wrong = [words for line in metadata.requires("sparsing") or [] if (words := _unmet(line))]
    found = "; ".join(wrong) or f"sparsing {metadata.version('sparsing')}, all there"
    yield _check("packages", not wrong, found, "pip install -r requirements.txt")


def _unmet(line: str) -> str:
    """What is wrong with a required package, or nothing."""
    requirement = Requirement(line)
    if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
        return ""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is missing"
    met = requirement.specifier.contains(version, prereleases=True)
    return "" if met else f"{requirement.name} is {version}, not {requirement.specifier}"


def _torch(torch: dict[str, Any], problem: str) -> Iterator[Check]:
    if not torch:
        yield Check(name="torch", status="fail", found=problem, remedy="pip install torch==2.13.0")
        return
    backends = [name for name in ("gloo", "nccl") if torch[name]]
    found = f"{torch['version']}, {' and '.join(backends) or 'no gloo'}"
    yield _check("torch", torch["gloo"], found, "install a torch build with torch.distributed")
    devices = [f"{d['name']} ({d['memory'] / GIGABYTE:.0f} GB)" for d in torch["devices"]]
    if devices:
        found = f"{', '.join(devices)}; {'bf16' if torch['bf16'] else 'no bf16, so float32'}"
        yield _check("gpu", torch["nccl"], found, "install a CUDA build of torch with NCCL")
    elif gpus := _system_gpus():
        cuda = torch["cuda"]
        found = f"{gpus}; torch is built for {f'CUDA {cuda}' if cuda else 'CPUs'} and sees none"
        remedy = (
            f"install a driver as new as CUDA {cuda}, or a torch for an older one"
            if cuda
            else "install a CUDA build of torch to use it"
        )
        yield Check(name="gpu", status="fail", found=found, remedy=remedy)
    else:
        yield Check(name="gpu", status="ok", found="none: trains on CPUs in float32")


def _system_gpus() -> str | None:
    """The GPUs that NVIDIA's driver sees, and its version; None where there are none."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=IMPORT_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    rows = [line.split(", ") for line in done.stdout.splitlines() if done.returncode == 0]
    known = [row for row in rows if len(row) == 2]
    return f"{len(known)} GPU ({known[0][0]}), driver {known[0][1]}" if known else None


def _import(package: str) -> Check:
    found, problem = _probe(_OTHER.format(package))
    return _check(
        package,
        bool(found),
        found.get("version", problem),
        f"pip install --force-reinstall {package}",
    )


def _probe(code: str) -> tuple[dict[str, Any], str]:
    """The JSON of the last line that code prints in a Python of its own, or what went wrong."""
    command = [sys.executable, "-c", code]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=IMPORT_SECONDS)
    except subprocess.TimeoutExpired:
        return {}, f"import takes over {IMPORT_SECONDS} s"
    if done.returncode == 0:
        return json.loads(done.stdout.strip().splitlines()[-1]), ""
    lines = done.stderr.strip().splitlines()
    return {}, lines[-1][:200] if lines else f"import ends with code {done.returncode}"


def _compiler(has_gpu: bool) -> Check:
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    remedy = "" if compiler or not has_gpu else "apt-get install g++ (Triton's kernels need it)"
    found = compiler or ("none" if has_gpu else "none, and none is needed on CPUs")
    return Check(name="compiler", status="note" if remedy else "ok", found=found, remedy=remedy)


def _cpus() -> Check:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = os.environ.get("OMP_NUM_THREADS")
    found = f"{usable} usable" + (f", OMP_NUM_THREADS={threads}" if threads else "")
    return Check(name="cpus", status="ok", found=found)


def _room(name: str, free: int, needed: int) -> Check:
    remedy = f"free at least {needed / GIGABYTE:g} GB"
    return _check(name, free >= needed, f"{free / GIGABYTE:.1f} GB free", remedy)


def _shared_memory() -> Check:
    shm = Path("/dev/shm")
    if not shm.is_dir():
        return Check(name="shared memory", status="note", found="no /dev/shm: Ray uses files")
    free = shutil.disk_usage(shm).free
    enough = free >= NEEDED_SHARED_MEMORY_BYTES
    remedy = "" if enough else "Ray will use files, slower; in Docker give --shm-size=1g"
    found = f"{free / GIGABYTE:.1f} GB free in {shm}"
    return Check(
        name="shared memory", status="ok" if enough else "note", found=found, remedy=remedy
    )


def _limits() -> Iterator[Check]:
    """Ray opens hundreds of files and starts hundreds of threads in each of its processes."""
    import resource  # not on Windows

    for name, kind, needed, flag in (
        ("open files", resource.RLIMIT_NOFILE, NEEDED_OPEN_FILES, "-n"),
        ("threads", resource.RLIMIT_NPROC, NEEDED_THREADS, "-u"),
    ):
        soft, _ = resource.getrlimit(kind)
        unlimited = soft == resource.RLIM_INFINITY
        found = "no limit" if unlimited else f"limit {soft}"
        remedy = f"ulimit {flag} {needed}, or more"
        yield _check(name, unlimited or soft >= needed, found, remedy)


def _network() -> Check:
    """Shards of a run meet over TCP, by an address of this host."""
    try:
        with socket.create_server(("127.0.0.1", 0)):
            address = socket.gethostbyname(socket.gethostname())
    except OSError as error:
        remedy = f"give {socket.gethostname()} an address in /etc/hosts"
        return Check(name="network", status="fail", found=str(error), remedy=remedy)
    return Check(name="network", status="ok", found=f"{socket.gethostname()} is {address}")


def _cluster(address: str | None) -> Iterator[Check]:
    """Whoever reaches a Ray cluster runs code on it: so only with a token."""
    if address:
        problem = token_problem(address)
        yield _check("cluster", problem is None, address, problem or "")


def _check(name: str, good: bool, found: str, remedy: str) -> Check:
    status: Literal["ok", "fail"] = "ok" if good else "fail"
    return Check(name=name, status=status, found=found, remedy="" if good else remedy)
