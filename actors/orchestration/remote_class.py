"""Actors whose code is loaded where they run: a controller never imports torch or scipy."""

from __future__ import annotations

import importlib
from typing import Any


def remote_class(module: str, name: str, methods: tuple[str, ...]) -> type:
    """A class for `ray.remote` that stands for `module.name`, with these methods of it."""

    def start(self: Any, *arguments: Any) -> None:
        self._object = getattr(importlib.import_module(module), name)(*arguments)

    def forwarder(method: str) -> Any:
        def forward(self: Any, *arguments: Any) -> Any:
            return getattr(self._object, method)(*arguments)

        forward.__name__ = method
        return forward

    return type(name, (), {"__init__": start, **{each: forwarder(each) for each in methods}})
