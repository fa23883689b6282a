"""Processes of a measurement's own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

_GOODBYE_S = 10.0


@contextmanager
def child(function: Any, *arguments: Any) -> Iterator[tuple[Any, Connection]]:
    """Run ``function(pipe, *arguments)`` in a fresh process, which ends when its pipe closes."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=function, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        yield process, ours
    finally:
        ours.close()
        process.join(_GOODBYE_S)
        process.kill()
        process.join()
