"""Writes a safetensors file tensor by tensor, so that no more than one of them is in memory.

The library writes a whole dictionary at once, under a temporary name that a killed writer leaves,
and with a mode that only its owner may read.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import torch
import xxhash

from sparsing.study.store.checkpoint_marker import CHUNK_BYTES

ALIGNMENT = 8
FLOAT32_BYTES = 4


class TensorFile:
    """A file of float32 tensors of known names and shapes, digested as it is written.

    Args:
        path: written in place; the marker of its checkpoint makes it count.
        shapes: of all tensors, in the order in which they will be written.
    """

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._expected = iter(list(shapes.items()))
        self._digest, self.bytes = xxhash.xxh3_128(), 0
        self._file = open(path, "wb", buffering=0)  # noqa: SIM115 (`close` closes it)
        try:
            self._put(_header(shapes))
        except BaseException:
            self._file.close()
            raise

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Write the next tensor."""
        assert (name, tuple(tensor.shape)) == next(self._expected), name
        flat = tensor.detach().to("cpu", torch.float32).contiguous().view(-1)
        self._put(memoryview(flat.numpy().data).cast("B"))

    def finish(self) -> tuple[int, str]:
        """Make the file durable; its size in bytes and its digest."""
        os.fsync(self._file.fileno())
        assert next(self._expected, None) is None
        return self.bytes, self._digest.hexdigest()

    def close(self) -> None:
        """Close it, whole or not."""
        self._file.close()

    def _put(self, content: bytes | memoryview) -> None:
        rest = memoryview(content)
        while rest:
            written = self._file.write(rest[:CHUNK_BYTES])
            self._digest.update(rest[:written])
            self.bytes += written
            rest = rest[written:]


def _header(shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    entries, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * FLOAT32_BYTES
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
