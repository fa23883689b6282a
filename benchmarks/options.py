"""Parts of the engine that can be switched off, so that `vinf bench engine --options` can show what each is worth."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

OPTIONS: dict[str, Callable[[], AbstractContextManager[object]]] = {}
"""Context managers in which the engine is built and run without one of its options, by the option's name."""
