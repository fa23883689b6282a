"""Writers of MP4, NumPy, GIF and PNG files behind one interface.

Frames are written one by one, so memory does not grow with the length of a video. Everything goes to a temporary
neighbour first and is renamed at the end: whoever finds the output finds it whole.
"""

import os
import secrets
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, Any, ClassVar, Self

import numpy as np

from vinf_client._errors import OutputError
from vinf_client._frame import Picture, rgb_of
from vinf_client._pixels import Image

PNG_NAME = "frame_{:06d}.png"


@dataclass(frozen=True, slots=True)
class VideoShape:
    """What a writer has to know before the first frame."""

    frame_count: int  # frames that are written
    width: int
    height: int
    frame_rate: Fraction
    first_frame: int = 0  # index of the first frame that is written


class FrameWriter(ABC):
    """Writes frames to a temporary neighbour of `path`, which takes its name when the body ended well."""

    needs: ClassVar[str] = ""
    """Module that is imported late; `Target.prepare` asks for it before any work is done."""

    def __init__(self, path: Path, shape: VideoShape) -> None:
        self.path = path
        self.shape = shape
        self.partial = path.parent / f".{path.name}.{secrets.token_hex(4)}.partial"

    def __enter__(self) -> Self:
        with _output_errors(self.path):
            self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            with suppress(Exception):  # the first error is the one to report
                self._close()
            _remove(self.partial)
            return
        try:
            with _output_errors(self.path):
                self._close()
                self._publish()
        finally:
            _remove(self.partial)

    def write(self, frame: Picture) -> None:
        """Append the next frame, or pixels, uint8 ``[H, W, 3]``."""
        pixels = rgb_of(frame)
        with _output_errors(self.path):
            self._write(pixels)

    @abstractmethod
    def _open(self) -> None: ...

    @abstractmethod
    def _write(self, frame: Image) -> None: ...

    @abstractmethod
    def _close(self) -> None: ...

    def _publish(self) -> None:
        os.replace(self.partial, self.path)


class NpyWriter(FrameWriter):
    """One array, uint8 ``[F, H, W, 3]``, readable with `numpy.load` (and its `mmap_mode`)."""

    _file: IO[bytes] | None = None

    def _open(self) -> None:
        shape = self.shape
        header = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)),
            "fortran_order": False,
            "shape": (shape.frame_count, shape.height, shape.width, 3),
        }
        # Plain appending instead of a memory map: the pages of a map count as this process's memory.
        self._file = open(self.partial, "wb")  # noqa: SIM115  (closed by _close)
        np.lib.format.write_array_header_1_0(self._file, header)

    def _write(self, frame: Image) -> None:
        assert self._file is not None
        self._file.write(np.ascontiguousarray(frame).data)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()


class Mp4Writer(FrameWriter):
    """H.264 in yuv420p, which every player takes; odd sizes are padded by repeating the last column or row."""

    needs = "av"
    _av: Any = None
    _container: Any = None

    def _open(self) -> None:
        import av  # takes a moment, and only the formats with a codec need it

        self._av = av
        options = {"movflags": "+faststart"}
        self._container = av.open(str(self.partial), "w", format="mp4", options=options)
        try:
            self._stream = self._container.add_stream("libx264", rate=self.shape.frame_rate)
        except ValueError as error:
            self._container.close()
            raise OutputError(f"{self.path} cannot be written: PyAV comes without an H.264 encoder here") from error
        self._stream.width = self.shape.width + self.shape.width % 2
        self._stream.height = self.shape.height + self.shape.height % 2
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"crf": "18", "preset": "veryfast"}

    def _write(self, frame: Image) -> None:
        height, width, _ = frame.shape
        if height % 2 or width % 2:
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        self._container.mux(self._stream.encode(picture))

    def _close(self) -> None:
        if self._container is None:
            return
        try:
            self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()


class GifWriter(FrameWriter):
    """An endlessly repeating GIF with a palette for each frame."""

    needs = "av"
    _av: Any = None
    _container: Any = None

    def _open(self) -> None:
        import av
        import av.filter

        self._av = av
        rate = min(self.shape.frame_rate, Fraction(50))  # players slow down what is faster
        self._container = av.open(str(self.partial), "w", format="gif", options={"loop": "0"})
        self._stream = self._container.add_stream("gif", rate=rate)
        self._stream.width, self._stream.height = self.shape.width, self.shape.height
        self._stream.pix_fmt = "pal8"
        self._index = 0
        self._time_base = 1 / rate
        self._graph = self._palette_graph()

    def _write(self, frame: Image) -> None:
        picture = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24").reformat(format="rgba")
        picture.pts, picture.time_base = self._index, self._time_base
        self._index += 1
        self._graph.push(picture)
        self._drain()

    def _close(self) -> None:
        if self._container is None:
            return
        try:
            self._graph.push(None)
            self._drain()
            self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()

    def _palette_graph(self) -> Any:
        """Wire split → palettegen → paletteuse, palettes made frame by frame so that nothing piles up."""
        graph = self._av.filter.Graph()
        source = graph.add_buffer(
            width=self.shape.width, height=self.shape.height, format="rgba", time_base=self._time_base
        )
        split = graph.add("split")
        palette = graph.add("palettegen", "stats_mode=single")
        use = graph.add("paletteuse", "new=1")
        sink = graph.add("buffersink")
        source.link_to(split)
        split.link_to(use, 0, 0)
        split.link_to(palette, 1, 0)
        palette.link_to(use, 0, 1)
        use.link_to(sink)
        graph.configure()
        return graph

    def _drain(self) -> None:
        while True:
            try:
                picture = self._graph.pull()
            except (BlockingIOError, EOFError):
                return
            self._container.mux(self._stream.encode(picture))


class PngWriter(FrameWriter):
    """A folder with frame_000000.png, frame_000001.png and so on; a file's number is its frame's index.

    A video takes the place of an earlier one in that folder; the later part of a video joins the frames before it.
    """

    def _open(self) -> None:
        self._index = self.shape.first_frame
        self.partial.mkdir()

    def _write(self, frame: Image) -> None:
        from PIL import Image as PillowImage

        PillowImage.fromarray(frame).save(self.partial / PNG_NAME.format(self._index), compress_level=1)
        self._index += 1

    def _close(self) -> None:
        pass

    def _publish(self) -> None:
        if self.shape.first_frame and self.path.is_dir():
            for entry in sorted(self.partial.iterdir()):
                os.replace(entry, self.path / entry.name)
            return
        if self.path.is_dir():
            shutil.rmtree(self.path)  # empty, or an earlier result: `prepare` made sure
        os.replace(self.partial, self.path)


def _remove(partial: Path) -> None:
    if partial.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
    else:
        partial.unlink(missing_ok=True)


@contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    """Raise the body's OS errors (a full disk, a folder that went away) as OutputError with the path."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
