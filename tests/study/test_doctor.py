"""The findings about this machine, and what a broken one looks like."""

import json
import subprocess
import sys

import pytest

from sparsing.study import doctor


def test_this_machine_can_run_a_study():
    done = subprocess.run(
        [sys.executable, "-m", "sparsing", "doctor", "--json"], capture_output=True, text=True
    )
    found = json.loads(done.stdout)
    names = [check["name"] for check in found["checks"]]
    assert {"python", "torch", "ray", "deepspeed", "gpu", "disk", "shared memory"} <= set(names)
    assert found["ready"] == all(check["status"] != "fail" for check in found["checks"])
    assert done.returncode == (0 if found["ready"] else 1)


def test_a_package_that_cannot_be_imported_is_a_finding():
    found = doctor._import("no_such_package")
    assert (found.status, found.found) == (
        "fail",
        "ModuleNotFoundError: No module named 'no_such_package'",
    )
    assert "pip install" in found.remedy


def test_an_import_that_kills_its_process_is_a_finding():
    assert doctor._probe("import os; os._exit(7)") == ({}, "import ends with code 7")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("click>=8.1", ""),
        ("click<1", "click is"),
        ("no-such-package>=1", "no-such-package is missing"),
        ("no-such-package; extra == 'test'", ""),
    ],
)
def test_requirements(line, words):
    assert doctor._unmet(line).startswith(words)
    assert bool(doctor._unmet(line)) == bool(words)


def test_too_little_room_says_how_much_is_needed():
    found = doctor._room("disk", 10**6, 10**9)
    assert (found.status, found.remedy) == ("fail", "free at least 1 GB")


@pytest.mark.parametrize("cuda", [None, "12.8"])
def test_no_torch_and_a_gpu_that_torch_does_not_see(monkeypatch, tmp_path, cuda):
    (found,) = doctor._torch({}, "broken")
    assert (found.status, found.found) == ("fail", "broken")
    torch = {
        "version": "2",
        "cuda": cuda,
        "gloo": True,
        "nccl": False,
        "bf16": False,
        "devices": [],
    }
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\necho 'NVIDIA H200, 535.1'\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    _, gpu = doctor._torch(torch, "")
    assert gpu.status == "fail"
    assert "535.1" in gpu.found
    assert gpu.remedy
