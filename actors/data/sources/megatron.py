"""Megatron-LM's index of a file of tokens."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from sparsing.study.errors import DamagedError

MAGIC = b"MMIDIDX\x00\x00"
DTYPES: dict[int, np.dtype] = {
    code: np.dtype(name)
    for code, name in {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}.items()
}
CODES = {"<u2": 8, "<u4": 4}
"""Megatron has no uint32; every id fits an int32."""


def index_bytes(lengths: np.ndarray, dtype: np.dtype) -> bytes:
    """Megatron's index of documents of these numbers of tokens: each is one sequence."""
    pointers = (np.cumsum(lengths) - lengths) * dtype.itemsize
    head = MAGIC + struct.pack("<QBQQ", 1, CODES[dtype.str], len(lengths), len(lengths) + 1)
    documents = np.arange(len(lengths) + 1, dtype="<i8")
    return head + b"".join(
        part.tobytes() for part in (lengths.astype("<i4"), pointers.astype("<i8"), documents)
    )


def read_index(path: Path) -> tuple[np.dtype, np.ndarray, np.ndarray]:
    """Megatron's index: dtype, and first token and tokens of each document, int64.

    Raises DamagedError where it is none, or is cut.
    """
    data = path.read_bytes()
    head = len(MAGIC) + 25
    if len(data) < head or not data.startswith(MAGIC):
        raise DamagedError(f"{path}: no index of Megatron-LM (at byte 0)")
    version, code, sequences, documents = struct.unpack_from("<QBQQ", data, len(MAGIC))
    if version != 1 or code not in DTYPES:
        raise DamagedError(f"{path}: version {version}, dtype {code} at byte 9: not known")
    needed = head + 12 * sequences + 8 * documents
    if len(data) < needed or not documents:
        raise DamagedError(f"{path}: {len(data)} bytes, but {needed} are needed: it is cut")
    sizes = np.frombuffer(data, "<i4", sequences, head).astype(np.int64)
    pointers = np.frombuffer(data, "<i8", sequences, head + 4 * sequences)
    ends = np.frombuffer(data, "<i8", documents, head + 12 * sequences)
    dtype = DTYPES[code]
    if len(sizes) and (np.diff(pointers) != sizes[:-1] * dtype.itemsize).any():
        raise DamagedError(f"{path}: sequences do not lie one after the other in the data")
    if ends[0] != 0 or ends[-1] != sequences or (np.diff(ends) < 0).any():
        raise DamagedError(f"{path}: its documents do not cover its sequences")
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return dtype, starts[ends[:-1]], starts[ends[1:]] - starts[ends[:-1]]
