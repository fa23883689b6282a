"""Story files of `vinf generate --story`: a prompt, and the segments that follow it.

{"prompt": "a red ball bouncing over the sea",
 "segments": [{"start_frame": 48, "prompt": "a red ball bouncing over the city", "transition_frames": 16},
              {"start_frame": 72, "prompt": "a white star over the meadow", "cut": true}]}
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vinf_client._errors import InvalidRequestError
from vinf_client._types import PromptSegment

_LARGEST_BYTES = 4 << 20  # more would not fit a request
_LONGEST_SHOWN = 60  # characters of a wrong value that a message repeats
_MISSING = object()

_WHOLE = "a whole number"
_KINDS: dict[str, tuple[type, str]] = {
    "prompt": (str, "text"),
    "negative_prompt": (str, "text"),
    "segments": (list, "a list"),
    "start_frame": (int, f"{_WHOLE}, at least 1"),
    "transition_frames": (int, f"{_WHOLE}, at least 0"),
    "cut": (bool, "true or false"),
}
_STORY_KEYS = ("prompt", "negative_prompt", "segments")
_SEGMENT_KEYS = ("start_frame", "prompt", "transition_frames", "cut")


@dataclass(frozen=True, slots=True)
class Story:
    """What a file tells; None where it says nothing."""

    prompt: str
    negative_prompt: str | None
    segments: tuple[PromptSegment, ...]


def read_story(path: Path) -> Story:
    """Read a story file. Only its form is judged here; frames and words are the server's to judge.

    Raises:
        InvalidRequestError: it cannot be read or is no story: one line with file, key, value and what is allowed.
    """
    told = table(_parse(path), str(path), _STORY_KEYS)
    return Story(
        prompt=_take(told, f"{path}: ", "prompt"),
        negative_prompt=_take(told, f"{path}: ", "negative_prompt", default=None),
        segments=read_segments(_take(told, f"{path}: ", "segments", default=[]), f"{path}: "),
    )


def read_segments(entries: list[Any], prefix: str) -> tuple[PromptSegment, ...]:
    """Read the segments of a story.

    Args:
        entries: as they stand in the file.
        prefix: what messages begin with.

    Raises:
        InvalidRequestError: one of them is none.
    """
    segments = []
    for index, entry in enumerate(entries):
        place = f"{prefix}segments[{index}]"
        segment = table(entry, place, _SEGMENT_KEYS)
        segments.append(
            PromptSegment(
                start_frame=_take(segment, f"{place}.", "start_frame"),
                prompt=_take(segment, f"{place}.", "prompt"),
                transition_frames=_take(segment, f"{place}.", "transition_frames", default=0),
                cut=_take(segment, f"{place}.", "cut", default=False),
            )
        )
    return tuple(segments)


def _parse(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise InvalidRequestError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(data) > _LARGEST_BYTES:
        raise InvalidRequestError(f"{path}: is larger than {_LARGEST_BYTES} bytes; allowed: a story file")
    try:
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=no_key_twice)
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InvalidRequestError(f"{path}: is not JSON: {error.msg} at {where}") from error
    except (ValueError, RecursionError) as error:  # a key twice, a number of thousands of digits, endless nesting
        raise InvalidRequestError(f"{path}: is not a story: {error}") from error


def no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object with a key that stands there twice; for `json.loads`.

    Raises:
        ValueError: it has one.
    """
    entries = dict(pairs)
    if len(entries) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {shown(twice)} stands there twice")
    return entries


def table(value: Any, place: str, keys: tuple[str, ...]) -> dict[str, Any]:
    """Refuse what is not an object with these keys only; messages begin with `place`.

    Raises:
        InvalidRequestError: it is none.
    """
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{place}: {shown(value)} is not allowed; allowed: an object with {', '.join(keys)}")
    for name in value:
        if name not in keys:
            raise InvalidRequestError(f"{place}: the key {shown(name)} is not allowed; allowed: {', '.join(keys)}")
    return value


def _take(entries: dict[str, Any], prefix: str, name: str, *, default: Any = _MISSING) -> Any:
    """Return an entry, of the right type and not below its least; the default where there is none."""
    kind, allowed = _KINDS[name]
    if name not in entries:
        if default is _MISSING:
            raise InvalidRequestError(f"{prefix}{name}: is missing; allowed: {allowed}")
        return default
    value = entries[name]
    least = 1 if name == "start_frame" else 0
    # bool is a kind of int to Python, but not to whoever writes a file.
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if not fits or (kind is int and value < least):
        raise InvalidRequestError(f"{prefix}{name}: {shown(value)} is not allowed; allowed: {allowed}")
    return value


def shown(value: Any) -> str:
    """A value as the file has it, on one line of readable length."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = json.dumps(value)
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…"
