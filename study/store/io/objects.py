"""Locations on object stores: S3 and its like, Google Cloud Storage, Azure.

An object appears whole or not at all, and can be put under the condition that its name is free:
that is all the store needs there. There is no append, no rename and no lock. A listing must show
every object whose put has returned, which S3 (since 2020), Google Cloud Storage and Azure promise.

Endpoint, region and credentials come from the usual AWS_*, GOOGLE_* and AZURE_* variables.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import from_url

from sparsing.study.errors import DefinitionError, NotFoundError, SparsingError

SCHEMES = ("s3", "gs", "az")
AT_ONCE = 16
"""Requests at a time where many objects are read or put."""
REQUEST_SECONDS = 30
RETRY_SECONDS = 10
"""For this time the library itself tries again after 429, 500, 503 and lost connections."""
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
T = TypeVar("T")
U = TypeVar("U")


class ObjectStoreError(SparsingError):
    """The object store refuses or cannot be reached, and might not the next time (exit code 4)."""

    exit_code = 4


@dataclass(frozen=True)
class Stat:
    """Size in bytes of an object, and when it was put, seconds since 1970."""

    st_size: int
    st_mtime: float


@dataclass(frozen=True)
class ObjectPath:
    """The name of an object, or of all that begins with it and a slash; as far as needed a Path."""

    bucket: str
    """With its scheme: `s3://bucket`."""
    key: str
    """Without slashes at its ends; may be empty."""

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key}" if self.key else self.bucket

    def __truediv__(self, name: str) -> ObjectPath:
        return ObjectPath(self.bucket, f"{self.key}/{name}" if self.key else name)

    def joinpath(self, *names: str) -> ObjectPath:
        """The location below this one."""
        return ObjectPath(self.bucket, "/".join(filter(None, (self.key, *names))))

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> ObjectPath:
        """The location without the last part of its key."""
        return ObjectPath(self.bucket, self.key.rpartition("/")[0])

    @cached_property
    def _store(self) -> Any:
        return _store_of(self.bucket)

    def is_file(self) -> bool:
        """Whether there is an object of this name."""
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def stat(self) -> Stat:
        """Size and time; FileNotFoundError where there is none."""
        return _stat(self._ask(lambda: obstore.head(self._store, self.key)))

    def read_bytes(self) -> bytes:
        """Its content; FileNotFoundError where there is none."""
        return self._ask(lambda: bytes(obstore.get(self._store, self.key).bytes()))

    def read_text(self, encoding: str = "utf-8") -> str:
        """Its content as text."""
        return self.read_bytes().decode(encoding)

    def open(self) -> RangeReader:
        """A file to read of, by requests for ranges of bytes."""
        return RangeReader(self)

    def read_range(self, start: int, length: int) -> bytes:
        """Some bytes of its content."""
        return self._ask(
            lambda: bytes(obstore.get_range(self._store, self.key, start=start, length=length))
        )

    def put_new(self, content: bytes) -> bool:
        """Put it unless the name is taken; False where another's object has it.

        A put that was answered by an error, or not at all, may have been done: so what is there
        already is read, and is ours when it is equal.
        """
        try:
            self._ask(lambda: self._put(content, mode="create"))
        except FileExistsError:
            return self.read_bytes() == content
        return True

    def replace_by(self, content: bytes) -> None:
        """Put it, whatever is there: readers see the old or the new content."""
        self._ask(lambda: self._put(content, mode="overwrite"))

    def read_versioned(self) -> tuple[bytes, str] | None:
        """Its content and version; None where there is none."""
        try:
            found = self._ask(lambda: obstore.get(self._store, self.key))
        except FileNotFoundError:
            return None
        return self._ask(lambda: bytes(found.bytes())), str(found.meta["e_tag"])

    def write_if(self, content: bytes, version: str | None) -> bool:
        """Put it if the version is still this one (None: if there is none); whether it was put.

        Contents must differ from write to write, for a version is made of the content.
        """
        if version is None:
            return self.put_new(content)
        mode: Any = {"e_tag": version}
        try:
            self._ask(lambda: self._put(content, mode=mode))
        except (FileExistsError, FileNotFoundError):
            found = self.read_versioned()
            return found is not None and found[0] == content
        return True

    def delete(self) -> None:
        """Remove it, if it is there."""
        try:
            self._ask(lambda: obstore.delete(self._store, self.key))
        except FileNotFoundError:
            return

    def list(self) -> tuple[dict[str, Stat], list[str]]:
        """The objects right below this location by name, and the names of what has more below."""
        found = self._ask(lambda: obstore.list_with_delimiter(self._store, self.key or None))
        objects = {meta["path"].rpartition("/")[2]: _stat(meta) for meta in found["objects"]}
        return objects, [each.rstrip("/").rpartition("/")[2] for each in found["common_prefixes"]]

    def _put(self, content: bytes, mode: Any) -> Any:
        return obstore.put(self._store, self.key, content, mode=mode, use_multipart=False)

    def _ask(self, request: Any) -> Any:
        """What a request returns, its errors in our words."""
        try:
            return request()
        except (AlreadyExistsError, PreconditionError) as error:
            raise FileExistsError(str(self)) from error
        except (BaseError, OSError) as error:
            if "NoSuchBucket" in str(error):
                raise NotFoundError(f"there is no bucket {self.bucket}: make it first") from error
            if isinstance(error, FileNotFoundError):
                raise FileNotFoundError(f"there is no {self}") from error
            said = str(error).partition("\n")[0]
            raise ObjectStoreError(f"{self}: {said}") from error


class RangeReader(io.RawIOBase):
    """An object as a file: what pyarrow reads of a large one is all that is transferred."""

    def __init__(self, path: ObjectPath) -> None:
        self._path, self._at, self._size = path, 0, path.stat().st_size

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; returns where the next read begins."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, origin + offset)
        return self._at

    def read(self, size: int = -1) -> bytes:
        """This many bytes, or all that are left."""
        left = max(0, self._size - self._at)
        length = left if size is None or size < 0 else min(size, left)
        data = self._path.read_range(self._at, length) if length else b""
        self._at += len(data)
        return data


Place = Path | ObjectPath
"""A folder or file on disk, or its like on an object store."""


def place_of(root: str | Place) -> Place:
    """Where a store is: a folder's absolute path, or a location on an object store.

    Raises DefinitionError for an address of another kind.
    """
    if isinstance(root, ObjectPath):
        return root
    scheme, colon, rest = str(root).partition("://")
    if not colon:
        return Path(root).expanduser().absolute()
    bucket, _, key = rest.partition("/")
    parts = [part for part in key.split("/") if part]
    if scheme not in SCHEMES or not bucket or {".", ".."} & set(parts):
        raise DefinitionError(
            f"the store {root} is neither a folder nor like s3://bucket/prefix "
            f"(also {', '.join(f'{each}://' for each in SCHEMES[1:])})",
            code="unknown_store_kind",
            store=str(root),
        )
    return ObjectPath(f"{scheme}://{bucket}", "/".join(parts))


def in_parallel(work: Callable[[T], U], items: Iterable[T]) -> list[U]:
    """What `work` returns for each, in order, some at a time."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(work, items))


@lru_cache
def _store_of(bucket: str) -> Any:
    endpoint = next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), "")
    config: Any = {"endpoint": endpoint} if endpoint and bucket.startswith("s3://") else None
    try:
        return from_url(
            bucket,
            config=config,
            client_options={
                "allow_http": endpoint.startswith("http://"),
                "timeout": timedelta(seconds=REQUEST_SECONDS),
            },
            retry_config={"max_retries": 5, "retry_timeout": timedelta(seconds=RETRY_SECONDS)},
        )
    except (BaseError, ValueError) as error:
        raise DefinitionError(f"the store {bucket}: {str(error).partition(chr(10))[0]}") from error


def _stat(meta: Any) -> Stat:
    return Stat(meta["size"], meta["last_modified"].timestamp())
