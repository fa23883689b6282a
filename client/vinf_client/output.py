"""Where a video goes: an MP4, NumPy or GIF file, or a folder of PNG files, chosen by the name."""

import os
import secrets
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from vinf_client._errors import OutputError
from vinf_client._replaceable import check_replaceable
from vinf_client._writers import FrameWriter, GifWriter, Mp4Writer, NpyWriter, PngWriter, VideoShape

ALLOWED = ".mp4, .npy, .gif, or a folder of PNG files (a name without ending, or with a / at its end)"

_BY_SUFFIX: dict[str, type[FrameWriter]] = {".mp4": Mp4Writer, ".npy": NpyWriter, ".gif": GifWriter}


@dataclass(frozen=True, slots=True)
class Target:
    """An output by its name: which writer it takes, and whether it can be written."""

    path: Path
    kind: type[FrameWriter]

    @classmethod
    def parse(cls, text: str) -> "Target":
        """Choose the writer by the ending.

        Raises:
            OutputError: nothing writes such an ending.
        """
        path = Path(text)
        folder = text.endswith(("/", os.sep)) or path.is_dir()
        kind = PngWriter if folder or not path.suffix else _BY_SUFFIX.get(path.suffix.lower())
        if not text or not path.name or kind is None:
            raise OutputError(f"{text!r} is not an output; allowed: {ALLOWED}")
        if folder and path.suffix.lower() in _BY_SUFFIX and not text.endswith("/"):
            raise OutputError(f"{text} is a folder; choose another name")
        return cls(path, kind)

    def prepare(self) -> None:
        """Make the folder and prove that it can be written, before anything is asked of a server.

        Raises:
            OutputError: it cannot, or something of somebody else would be lost.
        """
        if self.kind.needs:
            import_module(self.kind.needs)
        if self.kind is not PngWriter:
            check_replaceable(self.path)
        prepare_folder(self.path)
        if self.kind is not PngWriter:
            return
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"{self.path} is a file; a folder of PNG files needs another name")
        if self.path.is_dir() and any(not _is_ours(entry) for entry in self.path.iterdir()):
            raise OutputError(f"{self.path} is a folder with other files in it; choose an empty or a new one")

    def open(self, shape: VideoShape) -> FrameWriter:
        """Return the writer, to be used in a `with` statement."""
        return self.kind(self.path, shape)


def prepare_folder(path: Path) -> None:
    """Make the folder of `path`, and prove that files can be made in it.

    Raises:
        OutputError: they cannot.
    """
    probe = path.parent / f".{path.name}.{secrets.token_hex(4)}.partial"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"{path} cannot be written: the folder {path.parent}: {reason}") from error


def _is_ours(entry: Path) -> bool:
    return entry.name.startswith("frame_") and entry.suffix == ".png" and entry.is_file()
