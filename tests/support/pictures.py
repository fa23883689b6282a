"""Picture files, good ones and bad ones, made when a test wants them."""

from __future__ import annotations

import struct
import zlib
from functools import cache
from io import BytesIO

import numpy as np
from PIL import ExifTags, Image


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """A picture as a file."""
    buffer = BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int = 64, height: int = 64, *, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """A picture that no compression makes small."""
    shape = (height, width, len(mode)) if len(mode) > 1 else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8), mode)


def halves(width: int, height: int, *, orientation: int = 1) -> Image.Image:
    """Red on the left and blue on the right, and an EXIF orientation."""
    picture = Image.new("RGB", (width, height), (255, 0, 0))
    picture.paste((0, 0, 255), (width // 2, 0, width, height))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    picture.info["exif"] = exif.tobytes()
    return picture


def bomb(side: int = 20_000) -> bytes:
    """A PNG of some 50 kB that is really ``side`` x ``side`` black pixels, one bit each."""
    packer, row = zlib.compressobj(9), bytes(1 + side // 8)
    data = b"".join([*(packer.compress(row * 100) for _ in range(side // 100)), packer.flush()])
    return png_of(struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0), data)


def png_of(header: bytes, data: bytes) -> bytes:
    """A PNG of two chunks and an end."""
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


@cache
def refused_files() -> dict[str, tuple[bytes, str]]:
    """Files that nobody takes, by what they are, each with the words of its refusal."""
    png, jpeg = encoded(noise()), encoded(noise(), "JPEG")
    frames = [noise(seed=seed) for seed in range(3)]
    animated = {"save_all": True, "append_images": frames[1:]}
    deep = png_of(struct.pack(">IIBBBBB", 4, 4, 16, 0, 0, 0, 0), zlib.compress(bytes(4 * (1 + 8))))
    cut = "it is cut short, damaged or of a rare kind"
    return {
        "nothing": (b"", "must not be empty"),
        "no picture": (b"a red ball", "must be a PNG or JPEG file, got something else"),
        "wrong magic": (b"\x89PNG\r\n\x1a\r" + png[8:], "must be a PNG or JPEG file, got something else"),
        "truncated PNG": (png[: len(png) // 2], f"cannot be read as PNG: {cut}"),
        "truncated JPEG": (jpeg[: len(jpeg) // 2], f"cannot be read as JPEG: {cut}"),
        "magic alone": (png[:8], f"cannot be read as PNG: {cut}"),
        "half a header": (png[:20], f"cannot be read as PNG: {cut}"),
        "bomb": (bomb(), "must have at most 16777216 pixels, got 20000 x 20000"),
        "animated GIF": (encoded(frames[0], "GIF", **animated), "must be a PNG or JPEG file, got GIF"),
        "WebP": (encoded(noise(), "WEBP"), "must be a PNG or JPEG file, got WebP"),
        "animated PNG": (encoded(frames[0], **animated), "must be a still picture, got an animation of 3 frames"),
        "CMYK JPEG": (
            encoded(noise(mode="CMYK"), "JPEG"),
            "must be grey, RGB or with a palette, got CMYK",
        ),
        "16-bit PNG": (deep, "must have at most 8 bits a channel, got 16"),
    }
