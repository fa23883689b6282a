"""A frame's bytes inside their message, serialised with a single copy.

Protobuf copies them into the frame, with the frame into the reply, and once more when that is serialised, which takes
much of the time that a large frame takes. Its wire format (https://protobuf.dev/programming-guides/encoding) lets the
parts stand side by side: a field is its tag, its length and its bytes, and a message is its fields one after the other.
"""

from __future__ import annotations

from vinf.v1 import frame_pb2

Parts = list[bytes | memoryview]
"""To be joined."""

_DATA = frame_pb2.Frame.DESCRIPTOR.fields_by_name["data"].number

_LENGTH_DELIMITED = 2
"""Wire type of a field that has a length: bytes, messages."""


def frame_field(
    field_number: int, facts: frame_pb2.Frame, data: memoryview, crc32c: int, begin: int, end: int
) -> Parts:
    """A field of some message that holds a frame with some of its bytes.

    Args:
        field_number: of the field.
        facts: all of the frame but its bytes and what belongs to them.
        data: all of its bytes.
        crc32c: of all of them; the frame carries it with the last ones.
        begin: of the bytes that are wanted.
        end: of the bytes that are wanted; above `begin`.
    """
    frame = frame_pb2.Frame()
    frame.CopyFrom(facts)
    frame.data_offset_bytes = begin
    frame.data_size_bytes = len(data)
    frame.crc32c = crc32c if end >= len(data) else -1
    head = frame.SerializeToString() + _prefix(_DATA, end - begin)
    return [_prefix(field_number, len(head) + end - begin) + head, data[begin:end]]


def _prefix(field_number: int, length: int) -> bytes:
    return _varint(field_number << 3 | _LENGTH_DELIMITED) + _varint(length)


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; all bytes but the last one have the eighth bit set."""
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)
