"""The wheel puts `sparsing` into an environment and nothing else, beside `kernels` of others."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).parents[2]
KERNELS = "kernels"
"""Hugging Face's package, whose only top-level package has the name of one of our rooms."""
IMPORTS = {
    "sparsing": "import sparsing.kernels.activity, sparsing.study.definition.load as l; "
    "sparsing.GatedFFN; l.preset_names()",
    KERNELS: "import kernels; kernels.get_kernel",
}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> dict[str, Path]:
    """Both wheels; ours is built from a copy of the tracked files."""
    folder = tmp_path_factory.mktemp("wheels")
    source = folder / "source"
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=CHECKOUT, capture_output=True, check=True, text=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(CHECKOUT / name, target, follow_symlinks=False)
    pip("wheel", "--no-deps", "-w", str(folder), str(source))
    pip("download", "--no-deps", "-d", str(folder), KERNELS)
    return {name: next(folder.glob(f"{name}-*.whl")) for name in IMPORTS}


def pip(*words: str, python: Path | None = None) -> None:
    chosen = ["--python", str(python)] if python else []
    command = [sys.executable, "-m", "pip", "-q", *chosen, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def environment(folder: Path) -> Path:
    """A new environment's python; what both packages need comes from this one's packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def imports(python: Path, name: str) -> None:
    """The package of the environment itself works: `-I` looks at no other folder."""
    place = f"; import {name}; print({name}.__file__)"
    done = subprocess.run(
        [python, "-I", "-c", IMPORTS[name] + place], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(python.parents[1])


def test_the_wheel_holds_sparsing_and_nothing_else(wheels):
    names = zipfile.ZipFile(wheels["sparsing"]).namelist()
    tops = {name.partition("/")[0].partition("-")[0] for name in names}
    assert tops == {"sparsing"}
    for needed in ("sparsing/study/presets/quickstart.yaml", "sparsing/kernels/cpu/ffn.cpp"):
        assert needed in names


@pytest.mark.parametrize("order", [("sparsing", KERNELS), (KERNELS, "sparsing")])
def test_both_are_installed_and_either_is_removed(wheels, order, tmp_path):
    for removed, kept in (order, order[::-1]):
        python = environment(tmp_path / f"without-{removed}")
        for name in order:
            pip("install", "--no-deps", str(wheels[name]), python=python)
        for name in order:
            imports(python, name)
        pip("uninstall", "-y", removed, python=python)
        imports(python, kept)
