"""Parts of the engine that can be switched off, so that `vinf bench engine --options` can show what each is worth."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from unittest.mock import patch

from vinf_core.context import blocks
from vinf_core.context.slicing import Slices

_EVERYTHING = 2**62

OPTIONS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "query blocks": partial(patch.object, blocks, "SINGLE_BLOCK", _EVERYTHING),
    "slices": partial(patch.object, Slices, "suited_to", lambda _: Slices(_EVERYTHING, _EVERYTHING)),
}
"""Context managers in which the engine is built and run without one of its options, by the option's name."""
