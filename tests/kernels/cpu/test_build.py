"""The compiled library: kept, shared by processes that start together, and done without."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from sparsing.kernels.cpu import build as cpu_build


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("SPARSING_KERNEL_CACHE", str(tmp_path))
    cpu_build.compiled.cache_clear()
    yield
    cpu_build.compiled.cache_clear()


def test_compiled_once_and_kept(tmp_path: Path) -> None:
    assert cpu_build.compiled() is not None
    (made,) = tmp_path.iterdir()
    written = made.stat().st_mtime_ns
    cpu_build.compiled.cache_clear()
    assert cpu_build.compiled() is not None
    assert made.stat().st_mtime_ns == written


def test_processes_that_start_together_need_no_lock(tmp_path: Path) -> None:
    program = "from sparsing.kernels.cpu.build import compiled; assert compiled() is not None"
    started = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(3)]
    assert [process.wait() for process in started] == [0, 0, 0]
    assert len(list(tmp_path.iterdir())) == 1


def test_without_a_compiler_it_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with caplog.at_level(logging.WARNING):
        assert cpu_build.compiled() is None
    assert "no C++ compiler" in caplog.text


def test_a_compiler_that_fails_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cpu_build, "FLAGS", ["-fno-such-flag"])
    assert cpu_build.compiled() is None
    assert "cannot compile" in caplog.text
    assert "no-such-flag" in caplog.text
