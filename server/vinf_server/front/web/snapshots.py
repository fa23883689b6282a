"""What the front knows, as JSON: the messages of `vinf.v1` by their field names, whole numbers of 64 bits as text."""

from __future__ import annotations

import json
from collections.abc import Hashable
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from vinf_server.front.generations.generation import Generation
from vinf_server.front.generations.generations import Generations
from vinf_server.front.rpc.convert import generation_message


def to_dict(message: Message) -> dict[str, Any]:
    """Return a message with every field, also those that have their default."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def generation_dict(generation: Generation, generations: Generations) -> dict[str, Any]:
    """Return a generation, and how long it will take where that is known."""
    snapshot = to_dict(generation_message(generation, generations))
    return snapshot | {"expected_seconds": generations.expected_s(generation)}


def version_of(generation: Generation, generations: Generations) -> Hashable:
    """Something that changes whenever `generation_dict` does, at a hundredth of the price."""
    frames = generation.frames
    return (
        *(generation.state, generation.state_reason, len(generation.events), generation.end_time_ns),
        *(generation.stage, generation.completed_steps, generation.clip_frame_counts, generation.peak_memory_bytes),
        *(frames.completed_count, frames.next_missing, frames.first_available),
        generations.queue_position(generation),
    )


def line(value: dict[str, Any]) -> bytes:
    """One message of a stream."""
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"
