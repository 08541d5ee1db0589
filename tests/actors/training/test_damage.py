"""Bits flipped anywhere in a checkpoint: it is refused, or reads as it was saved."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsing.actors.models.checkpoint_read import read_tensors
from sparsing.actors.training.checkpoint_write import shares, write_marker, write_shard
from sparsing.study.errors import DamagedError, NotFoundError
from sparsing.study.store.checkpoint_marker import MARKER, Checkpoint, read_checkpoint

SHARDS, SEED = 2, 11


class Weights:
    """What is saved, in place of an engine."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {f"layer.{number}": (8, 16) for number in range(3)} | {"scale": (7,)}

    def state(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, torch.Tensor]]:
        generator = torch.Generator().manual_seed(1)
        for name, shape in self.shapes().items():
            for kind in ("weight", "exp_avg", "exp_avg_sq"):
                value = torch.randn(shape, generator=generator)
                if wanted(name):
                    yield f"{kind}/{name}", value


def save(folder: Path) -> Checkpoint:
    files: dict[str, tuple[int, str]] = {}
    for rank in range(SHARDS):
        files |= write_shard(Weights(), folder, 1, rank, SHARDS)
    about = Checkpoint(
        run="r",
        attempt=1,
        step=5,
        tokens=80,
        files={name: size for name, (size, _) in files.items()},
        digests={name: digest for name, (_, digest) in files.items()},
        config={"d_h": 8, "activation": "relu"},
        code_version="test",
        save_seconds=0.25,
    )
    return write_marker(folder, about)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "step-000000005"
    save(folder)
    return folder


def test_what_was_saved_is_read(saved: Path) -> None:
    tensors = read_tensors(saved)
    expected = dict(Weights().state(lambda _: True))
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    weights = read_tensors(saved, "weight/")
    assert len(weights) == 4
    assert all(name.startswith("weight/") for name in weights)


def flips(folder: Path, saved: Path, count: int) -> list[str]:
    """Flip one bit at a time; names of files whose damage was not noticed."""
    chance, silent = random.Random(SEED), []
    expected, marker = read_tensors(saved), read_checkpoint(saved)
    names = [path.name for path in sorted(saved.iterdir())]
    for number in range(count):
        path = folder / names[number % len(names)]
        content = path.read_bytes()
        bit = chance.randrange(8 * len(content))
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            tensors = read_tensors(folder)
            same = read_checkpoint(folder) == marker
            same = same and all(torch.equal(tensors[name], expected[name]) for name in expected)
            silent += [] if same else [f"{path.name}, bit {bit}"]
        except (DamagedError, NotFoundError):
            pass
        path.write_bytes(content)
    return silent


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_no_flipped_bit_is_used_in_silence(saved: Path, tmp_path: Path, count: int) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / saved.name))
    assert flips(folder, saved, count) == []


def test_every_byte_of_the_marker_counts(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / saved.name))
    content, marker = (folder / MARKER).read_bytes(), read_checkpoint(saved)
    for place in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            (folder / MARKER).write_bytes(damaged)
            with pytest.raises(DamagedError):
                read_checkpoint(folder)
    (folder / MARKER).write_bytes(content)
    assert read_checkpoint(folder) == marker


def test_files_follow_the_umask(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b" / "step-000000005"
    save(folder)
    made = tmp_path / "made"
    made.touch()
    assert {path.stat().st_mode for path in folder.iterdir()} == {made.stat().st_mode}


def test_a_checkpoint_without_digests_is_read_as_before(saved: Path, tmp_path: Path) -> None:
    """As versions before wrote it: sizes only."""
    folder = Path(shutil.copytree(saved, tmp_path / saved.name))
    text = (folder / MARKER).read_text()
    old, _, _ = text.partition(',\n "digests"')
    (folder / MARKER).write_text(old + "\n}")
    assert read_checkpoint(folder).digests is None
    assert len(read_tensors(folder)) == 12
    shard = next(folder.glob("*moments*"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(DamagedError):
        read_checkpoint(folder)


@given(st.dictionaries(st.text(min_size=1), st.tuples(st.integers(1, 99))), st.integers(1, 9))
def test_each_parameter_is_written_once_and_shards_write_about_equally_much(
    shapes: dict[str, tuple[int]], world_size: int
) -> None:
    each = shares(shapes, world_size)
    assert sorted(name for mine in each for name in mine) == sorted(shapes)
    sizes = [sum(shapes[name][0] for name in mine) for mine in each]
    largest = max((shape[0] for shape in shapes.values()), default=0)
    assert max(sizes) - min(sizes) <= largest
    order = list(shapes)
    assert all(mine == sorted(mine, key=order.index) for mine in each)
