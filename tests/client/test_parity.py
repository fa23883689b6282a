"""Both clients have the same methods with the same parameters, awaited where the other one blocks."""

import inspect

import pytest

import vinf_client
from vinf_client import (
    AsyncClient,
    AsyncFramePuller,
    AsyncGenerationHandle,
    AsyncVideo,
    Client,
    FramePuller,
    GenerationHandle,
    Video,
)

pytestmark = pytest.mark.fast

PAIRS = [
    (Client, AsyncClient),
    (GenerationHandle, AsyncGenerationHandle),
    (Video, AsyncVideo),
    (FramePuller, AsyncFramePuller),
]

AT_ONCE = {
    "latest": "never waits",
    "pull": "only begins",
    "watch": "only begins",
    "frames": "an iterator",
    "updates": "an iterator",
}
"""Methods that block in neither client."""

ALIASES = {"aclose"}
"""What `contextlib.aclosing` calls."""

NAMES = {sync.__name__: other.__name__ for sync, other in PAIRS}


def public(kind):
    return {name for name in dir(kind) if not name.startswith("_")}


@pytest.mark.parametrize(("sync", "other"), PAIRS, ids=lambda kind: kind.__name__)
def test_names(sync, other):
    assert public(sync) == public(other) - ALIASES


@pytest.mark.parametrize(("sync", "other"), PAIRS, ids=lambda kind: kind.__name__)
def test_parameters(sync, other):
    for name in sorted(public(sync)):
        method, twin = getattr(sync, name), getattr(other, name)
        if isinstance(method, property):
            assert isinstance(twin, property), name
            continue
        if not callable(method):
            continue
        assert described(method) == described(twin), f"{sync.__name__}.{name}"


def described(method):
    return [
        (parameter.name, parameter.kind, parameter.default, str(parameter.annotation))
        for parameter in inspect.signature(method).parameters.values()
    ]


@pytest.mark.parametrize(("sync", "other"), PAIRS[:1], ids=lambda kind: kind.__name__)
def test_constructors(sync, other):
    assert described(sync.__init__) == described(other.__init__)


@pytest.mark.parametrize(("sync", "other"), PAIRS, ids=lambda kind: kind.__name__)
def test_what_blocks_is_awaited(sync, other):
    for name in sorted(public(sync)):
        twin = inspect.getattr_static(other, name)
        if inspect.isfunction(twin):
            assert inspect.iscoroutinefunction(twin) is (name not in AT_ONCE), f"{other.__name__}.{name}"


@pytest.mark.parametrize(("sync", "other"), PAIRS, ids=lambda kind: kind.__name__)
def test_both_are_context_managers_or_neither(sync, other):
    assert hasattr(sync, "__enter__") is hasattr(other, "__aenter__")
    assert hasattr(sync, "__iter__") is hasattr(other, "__aiter__")


def test_all_of_it_can_be_imported_by_name():
    assert sorted(vinf_client.__all__) == vinf_client.__all__
    assert {*NAMES, *NAMES.values()} <= set(vinf_client.__all__)
    for name in vinf_client.__all__:
        assert getattr(vinf_client, name).__name__ == name
