"""Frames into H.264 in fragmented MP4, a few at a time. Runs in threads, one call at once."""

from __future__ import annotations

import io
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from vinf.v1 import generation_pb2
from vinf_server.front.web.errors import NoVideoError

_SMALL = 256
"""Pixels; a smaller picture is doubled, because H.264 keeps its colours at half of its width and height."""

_LEAST_RATE = 4
"""Frames a second; below, a fragment has two frames."""

# Code points of ITU-T H.273; the range as FFmpeg counts it.
_BT709, _SRGB, _LIMITED = 1, 13, 1

_OPTIONS: dict[str, object] = {"crf": "18", "preset": "veryfast", "tune": "zerolatency", "sc_threshold": "0"}
_FRAGMENTED = {
    "movflags": "frag_keyframe+empty_moov+default_base_moof+frag_discont",
    "avoid_negative_ts": "disabled",  # or the first frame would always be shown at 0
}


@dataclass(frozen=True, slots=True)
class Fragment:
    """Some frames that can be played from the first of them on."""

    first_frame: int
    data: bytes


class FragmentEncoder:
    """Makes a fragment of every half second of a video; a fragment is finished by the frame behind it."""

    def __init__(self, spec: generation_pb2.GenerationSpec) -> None:
        """Open the encoder.

        Raises:
            NoVideoError: there is none, or it takes no such video.
        """
        try:
            import av
        except ImportError as error:
            raise NoVideoError("the server has no PyAV: pip install av") from error
        self._av = av
        self._width, self._height = spec.width, spec.height
        rate = Fraction(spec.frame_rate.num, spec.frame_rate.den)
        self._time_base = 1 / rate
        self._scale = 2 if min(spec.width, spec.height) < _SMALL else 1
        self._sink = _Sink()
        self._first_frame: int | None = None
        try:
            self._container: Any = av.open(self._sink, "w", format="mp4", options=_FRAGMENTED)
            self._stream: Any = self._container.add_stream("libx264", rate=rate)
            self._stream.width = spec.width * self._scale + spec.width * self._scale % 2
            self._stream.height = spec.height * self._scale + spec.height * self._scale % 2
            self._stream.pix_fmt = "yuv420p"
            self._stream.options = _OPTIONS
            context = self._stream.codec_context
            context.gop_size = round(rate / 2) if rate > _LEAST_RATE else 2
            context.thread_count = 1  # the ranks need the other cores
            context.colorspace = context.color_primaries = _BT709
            context.color_trc, context.color_range = _SRGB, _LIMITED
            self._container.start_encoding()
        except (ValueError, av.FFmpegError) as error:
            raise NoVideoError(f"the server's H.264 encoder refuses: {error}") from error
        self.head = self._sink.take()
        """What a player needs before the first fragment."""

    @property
    def mime_type(self) -> str:
        """What `MediaSource.addSourceBuffer` takes: profile and level stand behind the first bytes of the stream."""
        extradata = self._stream.codec_context.extradata
        sps = extradata.index(b"\x67")
        return f'video/mp4; codecs="avc1.{extradata[sps + 1 : sps + 4].hex().upper()}"'

    def add(self, first: int, pixels: bytes) -> list[Fragment]:
        """Encode frames.

        Args:
            first: index of the first one; may be larger than the one behind the last, where frames are missing.
            pixels: RGB24 from top to bottom, one frame behind the other.

        Returns:
            The fragments that are finished.
        """
        pictures = np.frombuffer(pixels, np.uint8).reshape(-1, self._height, self._width, 3)
        fragments = []
        for offset, picture in enumerate(pictures):
            frame = self._frame(picture)
            frame.pts, frame.time_base = first + offset, self._time_base
            for packet in self._stream.encode(frame):
                is_key = packet.is_keyframe
                self._container.mux(packet)
                if is_key:
                    fragments += self._finished()
                    self._first_frame = first + offset
        return fragments

    def finish(self) -> list[Fragment]:
        """Return what is left; nothing can be added any more."""
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._finished()

    def _finished(self) -> list[Fragment]:
        data = self._sink.take()
        return [Fragment(self._first_frame, data)] if data and self._first_frame is not None else []

    def _frame(self, picture: Any) -> Any:
        enlarged = picture.repeat(self._scale, 0).repeat(self._scale, 1) if self._scale > 1 else picture
        height, width, _ = enlarged.shape
        if height % 2 or width % 2:
            enlarged = np.pad(enlarged, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(enlarged), format="rgb24")
        return frame.reformat(format="yuv420p", dst_colorspace=_BT709, dst_color_range=_LIMITED)


def write_plain_file(fragments: Path, target: Path) -> None:
    """Write a fragmented file as one that every player can jump about in; nothing is encoded again."""
    import av

    partial = target.with_suffix(".part")
    with (
        av.open(str(fragments)) as source,
        av.open(str(partial), "w", format="mp4", options={"movflags": "+faststart"}) as sink,
    ):
        stream = sink.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                sink.mux(packet)
    partial.replace(target)


class _Sink(io.RawIOBase):
    """Takes what the muxer writes."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        return data
