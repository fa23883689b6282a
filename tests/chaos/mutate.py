"""Requests that nobody should send: right ones with fields spoiled, and messages with bytes spoiled.

Mutations look at descriptors only, so that new fields are spoiled by themselves. All chance comes from one
`random.Random`: a seeded one for a hundred thousand requests at the speed of the wire, or one of hypothesis's, which
then makes a request that breaks something as small as it can.
"""

from __future__ import annotations

import math
import random
import struct
import time
import uuid
from collections import deque
from collections.abc import Sequence

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from tests.support.pictures import encoded, noise

F = FieldDescriptor

INTEGERS = (0, 1, -1, 2, 3, 15, 16, 48, 64, 65, 200, 1000, 4096, 65_536, 67_108_864, 2**31 - 1, -(2**31), 2**63 - 1)
FLOATS = (0.0, -0.0, 1.0, 7.5, -1.0, 50.0, math.nan, math.inf, -math.inf, 3e38, 1e-45, 1e-300)
TEXTS = (
    *("", " ", "a red circle", "a blue square", "slow", "A RED CIRCLE", "zebra", "a\x00b", "\u202eright to left\u202c"),
    *(
        "🎈" * 201,
        "e\u0301",
        "ﷺ" * 40,
        "%s%n%x",
        "../../etc/passwd",
        "'; DROP TABLE generations; --",
        "\r\n\r\n",
        "\ud7ff",
    ),
    *("scripted", "sprites", "0" * 36, "MTow", "a" * 63, "a" * 64, "a" * 256, "\x1b[31m"),
)
PICTURE = encoded(noise(16, 16))
BROKEN_UTF8 = (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x80abc")

MAX_HUGE_TEXT = 200_000
"""Characters: far above every limit of a field, far below that of a message."""


class Mutator:
    """An endless stream of bad requests from one source of chance."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._seen: deque[bytes] = deque([b""], maxlen=64)
        """Earlier messages, to be spliced into later ones."""

    def request(self, kind: type[Message], generation_ids: Sequence[str] = ()) -> bytes:
        """The next one for a method that takes such a message.

        Args:
            kind: type of the message.
            generation_ids: known to the server, for requests that get past the first check.
        """
        rng = self._rng
        message = kind()
        self._make_valid(message, generation_ids)
        # A lone field is mostly left as it is: no spoiled id gets past the first check.
        if len(message.DESCRIPTOR.fields) > 1 or rng.random() < 0.4:
            for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 8))):
                self._spoil_field(message)
        data = message.SerializeToString()
        self._seen.append(data[:4096])
        if rng.random() < 0.4:
            for _ in range(rng.choice((1, 1, 2, 5))):
                data = self._spoil_bytes(data)
        return data

    def garbage(self) -> bytes:
        """Bytes without any meaning."""
        return self._rng.randbytes(self._rng.choice((1, 2, 7, 60, 1000)))

    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """Headers for a request; mostly none."""
        rng = self._rng
        if rng.random() < 0.9:
            return ()
        values = ("", "Bearer", "Bearer ", "Bearer " + "x" * 3000, "Basic YTpi", "python/9.9", "%00%ff", "~" * 3000)
        keys = ("authorization", "x-vinf-client", "vinf-epoch", "traceparent", "grpc-accept-encoding-x")
        return ((rng.choice(keys), rng.choice(values)), ("noise-bin", rng.randbytes(rng.randrange(500))))

    # ---- messages ----

    def _make_valid(self, message: Message, generation_ids: Sequence[str]) -> None:
        """Set what every request of its kind needs to get past the first check."""
        fields = message.DESCRIPTOR.fields_by_name
        if "generation_id" in fields and generation_ids and self._rng.random() < 0.8:
            message.generation_id = self._rng.choice(generation_ids)
        if "spec" in fields:
            message.spec.prompt = "a red circle"
            message.spec.seed = self._rng.randrange(1, 1000)

    def _spoil_field(self, message: Message) -> None:
        """Give a random field, at any depth, a random value that may or may not be one of its range."""
        fields = message.DESCRIPTOR.fields
        if not fields:
            return
        field = self._rng.choice(fields)
        if self._rng.random() < 0.1:
            message.ClearField(field.name)
        elif field.message_type and field.message_type.GetOptions().map_entry:
            self._spoil_map(message, field)
        elif field.is_repeated:
            values = getattr(message, field.name)
            for _ in range(self._rng.choice((1, 2, 5, 65, 1000))):
                if field.message_type:
                    self._spoil_field(values.add())
                else:
                    values.append(self._value(field))
        elif field.message_type:
            inner = getattr(message, field.name)
            inner.SetInParent()
            for _ in range(self._rng.choice((0, 1, 2, 4))):
                self._spoil_field(inner)
        else:
            setattr(message, field.name, self._value(field))

    def _spoil_map(self, message: Message, field: FieldDescriptor) -> None:
        """Only maps of texts are in the contracts."""
        entries = getattr(message, field.name)
        for number in range(self._rng.choice((1, 3, 17, 1000))):
            key = self._rng.choice(("key", "_-9", "", "Key", "k" * 64, "ключ", self._text()[:100]))
            entries[f"{key}{number}"] = self._text()[:1000]

    def _value(self, field: FieldDescriptor) -> object:
        rng = self._rng
        if field.type in (F.TYPE_DOUBLE, F.TYPE_FLOAT):
            return rng.choice((*FLOATS, rng.uniform(-100, 100)))
        if field.type == F.TYPE_BOOL:
            return rng.random() < 0.5
        if field.type == F.TYPE_ENUM:
            return rng.choice((0, 1, 2, 3, 4, 99, -1, 2**31 - 1, -(2**31)))
        if field.type == F.TYPE_STRING:
            return self._text()
        if field.type == F.TYPE_BYTES:
            return rng.choice((rng.randbytes(rng.choice((0, 1, 1000))), PICTURE, self._spoil_bytes(PICTURE)))
        value = rng.choice((*INTEGERS, rng.randrange(100), rng.randrange(-(2**31), 2**31), int(time.time()) + 60))
        low, high = _bounds(field)
        return min(max(value, low), high)

    def _text(self) -> str:
        rng = self._rng
        choices = [rng.choice(TEXTS), str(uuid.UUID(int=rng.getrandbits(128))), chr(rng.randrange(1, 0xD800)) * 3]
        if rng.random() < 0.02:
            choices = [rng.choice("a 🎈") * rng.randrange(MAX_HUGE_TEXT)]
        return rng.choice(choices)

    # ---- bytes ----

    def _spoil_bytes(self, data: bytes) -> bytes:
        rng = self._rng
        at = rng.randrange(len(data) + 1)
        match rng.randrange(9):
            case 0 if data:  # a flipped bit
                position = rng.randrange(len(data))
                return data[:position] + bytes([data[position] ^ 1 << rng.randrange(8)]) + data[position + 1 :]
            case 1:  # cut off
                return data[:at]
            case 2:  # spliced with an earlier one, of whatever type
                other = rng.choice(self._seen)
                return data[:at] + other[rng.randrange(len(other) + 1) :]
            case 3:  # bytes without any meaning
                return data[:at] + self.garbage() + data[at:]
            case 4:  # an unknown field of a newer client: this alone is no mistake
                return data + self._unknown_field()
            case 5:  # a text that is none
                text = rng.choice(BROKEN_UTF8)
                return data + bytes([rng.randrange(1, 16) << 3 | 2, len(text)]) + text
            case 6:  # a length beyond the end
                return data + bytes([rng.randrange(1, 16) << 3 | 2]) + b"\xff\xff\xff\xff\x0f"
            case 7:  # groups or messages inside each other, deeper than any parser goes
                depth = rng.choice((10, 99, 101, 5000))
                return data + rng.choice((b"\x0b", b"\xfb\x3e", b"\x12\x7f")) * depth
            case _:  # a number longer than any
                return data + bytes([rng.randrange(1, 16) << 3]) + b"\x80" * rng.choice((5, 10, 11, 100))

    def _unknown_field(self) -> bytes:
        rng = self._rng
        number = rng.choice((999, 2000, 536_870_911))
        kind = rng.choice((0, 1, 2, 5))
        value = {
            0: b"\x96\x01",
            1: struct.pack("<d", rng.random()),
            2: b"\x03abc",
            5: struct.pack("<I", rng.getrandbits(32)),
        }[kind]
        return _varint(number << 3 | kind) + value


def _bounds(field: FieldDescriptor) -> tuple[int, int]:
    if field.type in (F.TYPE_INT64, F.TYPE_SINT64, F.TYPE_SFIXED64):
        return -(2**63), 2**63 - 1
    if field.type in (F.TYPE_UINT64, F.TYPE_FIXED64):
        return 0, 2**64 - 1
    if field.type in (F.TYPE_UINT32, F.TYPE_FIXED32):
        return 0, 2**32 - 1
    return -(2**31), 2**31 - 1


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])
