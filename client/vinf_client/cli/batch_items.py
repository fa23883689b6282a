"""The list of `vinf batch`: one video a line, as a JSON object or as a prompt alone.

{"prompt": "a red ball bouncing over the sea", "seed": 7, "frames": 96, "name": "ball"}
{"prompt": "a red ball bouncing over the sea", "image": "first.png", "end_image": "last.jpg"}
"""

import hashlib
import json
import re
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from vinf_client._errors import InvalidRequestError, Violation
from vinf_client._images import FIRST_FRAME, LAST_FRAME, ImageCondition, encoded
from vinf_client._job import JobArguments, check_job
from vinf_client._request import SpecArguments, SpecOptions, check
from vinf_client.cli.common import MistakesError, as_json
from vinf_client.cli.story import no_key_twice, read_segments, shown, table

_SPEC_KEYS = tuple(key for key in SpecOptions.__annotations__ if key != "image_conditions")
_IMAGE_KEYS = {"image": FIRST_FRAME, "end_image": LAST_FRAME}
_JOB_KEYS = ("priority", "deadline", "labels")
_KEYS = ("prompt", "name", *_SPEC_KEYS, *_IMAGE_KEYS, *_JOB_KEYS)
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
_NAME_ALLOWED = "1 to 100 characters from [A-Za-z0-9._-], the first one no dot"
_SLUG_LENGTH = 40
_MOST_TOLD = 20  # mistakes; whoever has more has made the same one again and again
_ENDINGS = (".jsonl", ".ndjson")


@dataclass(frozen=True, slots=True)
class Item:
    """One video of the list."""

    line: int  # in the file, from 1
    name: str  # of its files
    prompt: str
    options: SpecOptions
    digest: str  # of what the video depends on
    priority: int | None = None
    deadline: float | None = None
    labels: dict[str, str] = field(default_factory=dict)

    def request_id(self, folder: Path, attempt: int) -> str:
        """Return the same UUID for the same video of the same folder, so that a second run finds it on the server."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"vinf-batch:{folder}:{self.name}:{self.digest}:{attempt}"))


class _Names:
    """The names of the files, each given once."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._repeats: Counter[str] = Counter()

    def take(self, name: Any, place: str) -> str:
        """Take a name that the list gives.

        Raises:
            InvalidRequestError: it cannot be one, or is taken.
        """
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidRequestError(f"{place}: name: {shown(name)} is not allowed; allowed: {_NAME_ALLOWED}")
        if name in self._taken:
            raise InvalidRequestError(f"{place}: name: {shown(name)} is taken by a line before")
        self._taken.add(name)
        return name

    def make(self, prompt: str, digest: str) -> str:
        """Make a name that says what the video is and stays the same.

        The same line again is another video: without a seed the server picks another one.
        """
        slug = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:_SLUG_LENGTH].rstrip("-")
        base = name = f"{slug or 'video'}-{digest[:8]}"
        while name in self._taken:
            self._repeats[base] = max(1, self._repeats[base]) + 1
            name = f"{base}-{self._repeats[base]}"
        self._taken.add(name)
        return name


def read_items(path: Path, defaults: SpecOptions) -> list[Item]:
    """Read the list; what a line does not say is taken from `defaults`.

    Raises:
        InvalidRequestError: with every mistake, each with its line.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except OSError as error:
        raise InvalidRequestError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    if path.suffix.lower() not in (".txt", *_ENDINGS):
        raise InvalidRequestError(f"{path}: is not a list of prompts; allowed: a name that ends in .jsonl or .txt")
    items: list[Item] = []
    mistakes: list[InvalidRequestError] = []
    names = _Names()
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            told = {"prompt": text.strip()} if path.suffix.lower() == ".txt" else _object(text, f"{path}:{number}")
            items.append(_item(told, f"{path}:{number}", number, path.parent, defaults, names))
        except InvalidRequestError as error:
            mistakes.append(error)
    if len(mistakes) > _MOST_TOLD:
        more = InvalidRequestError(f"and {len(mistakes) - _MOST_TOLD} more lines")
        mistakes = [*mistakes[:_MOST_TOLD], more]
    if mistakes:
        raise mistakes[0] if len(mistakes) == 1 else MistakesError(mistakes)
    if not items:
        raise InvalidRequestError(f"{path}: has no prompt in it")
    return items


def _object(text: str, place: str) -> dict[str, Any]:
    try:
        value = json.loads(text, object_pairs_hook=no_key_twice)
    except json.JSONDecodeError as error:
        raise InvalidRequestError(f"{place}: is not JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"{place}: {error}") from error
    return table(value, place, _KEYS)


def _item(told: Mapping[str, Any], place: str, line: int, folder: Path, defaults: SpecOptions, names: _Names) -> Item:
    if "prompt" not in told:
        raise InvalidRequestError(f"{place}: prompt: is missing; allowed: text")
    given = {key: value for key, value in told.items() if value is not None}
    spec = {key: value for key, value in defaults.items() if value is not None}
    spec |= {key: given[key] for key in _SPEC_KEYS if key in given}
    if isinstance(spec.get("segments"), list):
        spec["segments"] = read_segments(cast(list[Any], spec["segments"]), f"{place}: ")
    if images := _image_conditions(given, defaults.get("image_conditions") or (), folder):
        spec["image_conditions"] = images
    options = cast(SpecOptions, spec)
    job = JobArguments(
        priority=given.get("priority"), deadline=given.get("deadline"), labels=given.get("labels"), detached=True
    )
    found = [*check(SpecArguments(prompt=told["prompt"], **options)), *check_job(job)]
    if found:
        told_words = "; ".join(_words(violation, options) for violation in found)
        raise InvalidRequestError(f"{place}: {told_words}")
    digest = _digest(told["prompt"], options, place)
    name = names.take(given["name"], place) if "name" in given else names.make(told["prompt"], digest)
    return Item(
        line=line,
        name=name,
        prompt=told["prompt"],
        options=options,
        digest=digest,
        priority=given.get("priority"),
        deadline=given.get("deadline"),
        labels=given.get("labels", {}),
    )


def _image_conditions(
    given: Mapping[str, Any], defaults: Sequence[ImageCondition], folder: Path
) -> tuple[ImageCondition, ...]:
    """Images that a line names, by paths from the folder of the list, in the place of those for all lines."""
    images = {condition.frame_index: condition.image for condition in defaults}
    for key, frame in _IMAGE_KEYS.items():
        if key in given:
            # What is no path is refused with everything else.
            images[frame] = folder / given[key] if isinstance(given[key], str) else given[key]
    return tuple(ImageCondition(frame, image) for frame, image in sorted(images.items(), reverse=True))


def _words(violation: Violation, options: SpecOptions) -> str:
    """Say what is wrong, by the key of the list."""
    name = violation.argument
    for index, image in enumerate(options.get("image_conditions") or ()):
        if name.startswith(f"image_conditions[{index}]"):
            name = next(key for key, frame in _IMAGE_KEYS.items() if frame == image.frame_index)
    return f"{name}: {violation.description}"


def _digest(prompt: str, options: SpecOptions, place: str) -> str:
    told = {"prompt": prompt, **as_json({key: value for key, value in options.items() if key != "image_conditions"})}
    if images := options.get("image_conditions"):
        try:
            # Their bytes: a file that was changed makes another video.
            told["images"] = [[image.frame_index, hashlib.sha256(encoded(image.image)).hexdigest()] for image in images]
        except OSError as error:
            raise InvalidRequestError(f"{place}: {error.filename} cannot be read: {error.strerror}") from error
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
