"""The folder of `vinf batch`: beside each video its caption and its specification; the latter says that it is done."""

import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from vinf_client._errors import InvalidRequestError, OutputError, VinfError
from vinf_client._types import Generation
from vinf_client.cli.batch_items import Item
from vinf_client.cli.common import MistakesError, as_json
from vinf_client.output import Target, prepare_folder

FORMATS = ("mp4", "gif", "npy", "png")
_FAILURES = "failures.jsonl"


class Folder:
    """Where the videos go; nobody else's `vinf batch` writes there meanwhile.

    Args:
        path: the folder; made when it is not there.
        kind: one of `FORMATS`; png makes a folder of pictures for each video.
    """

    def __init__(self, path: Path, kind: str) -> None:
        self.path = path.absolute()
        self._kind = kind
        self._lock = -1

    def __enter__(self) -> Self:
        """Make the folder.

        Raises:
            OutputError: nothing can be written there, or another batch writes there.
        """
        prepare_folder(self.path / _FAILURES)
        self._lock = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise OutputError(f"{self.path}: another vinf batch works there; choose another folder") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._lock)

    def target(self, item: Item) -> Target:
        """Return where the video of an item goes."""
        ending = "/" if self._kind == "png" else f".{self._kind}"
        return Target.parse(f"{self.path / item.name}{ending}")

    def finished(self, items: Sequence[Item]) -> set[str]:
        """Return the names of the videos that are there.

        Raises:
            InvalidRequestError: files of other videos are in the way.
        """
        found = set()
        mistakes: list[VinfError] = []
        for item in items:
            digest = self._digest_of(item)
            if digest is None or not self.target(item).path.exists():
                continue
            if digest == item.digest:
                found.add(item.name)
            else:
                mistakes.append(
                    InvalidRequestError(
                        f"{self._spec_path(item)} is that of another video than line {item.line} asks for; "
                        "choose another name, or remove it"
                    )
                )
        if mistakes:
            raise mistakes[0] if len(mistakes) == 1 else MistakesError(mistakes)
        return found

    def clear(self, item: Item) -> None:
        """Remove what a batch that was killed left of an item."""
        for name in (self.target(item).path.name, f"{item.name}.txt", f"{item.name}.json"):
            for path in self.path.glob(f".{name}.{'?' * 8}.partial"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def finish(self, item: Item, generation: Generation, *, frames: int, seconds: float) -> Path:
        """Write what belongs beside a video that is written; return the video's path."""
        target = self.target(item).path
        told = {
            "name": item.name,
            "output": target.name,
            "generation_id": generation.generation_id,
            "digest": item.digest,
            "prompt": item.prompt,
            "options": item.options,
            "labels": item.labels,
            "resolved_spec": generation.spec,
            "clips": generation.clips,
            "frames": frames,
            "seconds": seconds,
        }
        _write(self.path / f"{item.name}.txt", f"{item.prompt.strip()}\n")
        # Last: who finds it finds the rest.
        _write(self._spec_path(item), json.dumps(as_json(told), indent=2, ensure_ascii=False) + "\n")
        return target

    def tell_failures(self, failures: Sequence[tuple[Item, VinfError]]) -> Path | None:
        """Write the list of what failed; return its path, None when nothing did."""
        path = self.path / _FAILURES
        if not failures:
            path.unlink(missing_ok=True)
            return None
        lines = [
            {"name": item.name, "line": item.line, "prompt": item.prompt, "reason": error.reason, "error": str(error)}
            for item, error in failures
        ]
        _write(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        return path

    def _spec_path(self, item: Item) -> Path:
        return self.path / f"{item.name}.json"

    def _digest_of(self, item: Item) -> str | None:
        """Read whose files are there; None: nobody's, or they are not finished."""
        try:
            told = json.loads(self._spec_path(item).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        digest = told.get("digest") if isinstance(told, dict) else None
        return digest if isinstance(digest, str) else None


def _write(path: Path, text: str) -> None:
    """Write a file as a whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
