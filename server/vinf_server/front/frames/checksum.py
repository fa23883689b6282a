"""CRC-32C (Castagnoli) of a frame."""

from __future__ import annotations

import google_crc32c

_CHUNK_BYTES = 1 << 18
"""Copied at a time where the library cannot read the bytes in place."""


def crc32c(data: bytes | memoryview) -> int:
    """Return the checksum, in [0, 2^32 - 1]; call it from a thread when the bytes are many."""
    if isinstance(data, bytes):
        return int(google_crc32c.value(data))
    total = 0
    for start in range(0, len(data), _CHUNK_BYTES):
        total = google_crc32c.extend(total, bytes(data[start : start + _CHUNK_BYTES]))
    return int(total)
