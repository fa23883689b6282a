"""What is decided about a file before its first frame comes."""

import os
from dataclasses import dataclass
from pathlib import Path

from vinf_client._errors import InvalidRequestError, Violation
from vinf_client._types import GenerationSpec
from vinf_client._writers import FrameWriter, VideoShape
from vinf_client.output import Target


@dataclass(frozen=True, slots=True)
class Saving:
    """A video on its way into a file."""

    target: Target
    shape: VideoShape

    @classmethod
    def prepare(
        cls, path: str | os.PathLike[str], spec: GenerationSpec, *, start: int = 0, stop: int | None = None
    ) -> "Saving":
        """Choose the writer by the ending, and prove that the file can be written.

        Raises:
            OutputError: it cannot, or nothing writes such an ending.
            InvalidRequestError: there are no such frames.
        """
        end = spec.frame_count if stop is None else stop
        if not 0 <= start < end <= spec.frame_count:
            problem = f"{start} to {end} is not allowed; allowed: a part of [0, {spec.frame_count})"
            raise InvalidRequestError.of([Violation("start", problem)])
        target = Target.parse(os.fspath(path))
        target.prepare()
        return cls(target, VideoShape(end - start, spec.width, spec.height, spec.frame_rate, first_frame=start))

    @property
    def path(self) -> Path:
        """Where it goes."""
        return self.target.path

    def open(self) -> FrameWriter:
        """Return the writer, to be used in a `with` statement."""
        return self.target.open(self.shape)
