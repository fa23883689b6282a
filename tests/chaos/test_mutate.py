"""Mutations repeat, reach every field and every kind of damage; RPCs and their errors are read from the contracts."""

from __future__ import annotations

import itertools
import random

import pytest
from google.protobuf.message import DecodeError

from tests.chaos.mutate import Mutator
from tests.chaos.rpcs import documented_errors, public_rpcs
from vinf.v1 import generation_pb2, video_generation_service_pb2

pytestmark = pytest.mark.fast

v1 = video_generation_service_pb2


def test_every_rpc_is_found():
    found = {rpc.name: rpc for rpc in public_rpcs()}
    wanted = {method.name for service in v1.DESCRIPTOR.services_by_name.values() for method in service.methods} | {
        "GetServerInfo",
        "Check",
    }
    assert set(found) == wanted
    assert {name for name, rpc in found.items() if rpc.streams} == {"WatchGeneration", "StreamFrames", "GetTrace"}
    assert found["GetGeneration"].request is v1.GetGenerationRequest
    assert ("NOT_FOUND", "GENERATION_NOT_FOUND") in found["GetGeneration"].errors
    assert ("RESOURCE_EXHAUSTED", "QUEUE_FULL") in found["CreateGeneration"].errors


def test_errors_are_read_over_the_ends_of_lines():
    proto = "  // Errors: OUT_OF_RANGE /\n  // FRAME_EVICTED, NOT_FOUND / NOBODY.\n  rpc Ask(A) returns (B);\n"
    assert documented_errors(proto, "Ask") == {("OUT_OF_RANGE", "FRAME_EVICTED"), ("NOT_FOUND", "NOBODY")}


def test_a_seed_repeats_its_requests():
    def requests(seed):
        mutator = Mutator(random.Random(seed))
        return [mutator.request(v1.CreateGenerationRequest) for _ in range(300)]

    first = requests(3)
    assert first != requests(4)
    unlike = sum(a != b for a, b in zip(first, requests(3), strict=True))
    assert unlike < 30  # the few that name the time of day


def test_requests_are_of_all_sorts():
    mutator = Mutator(random.Random(1))
    parsed, broken, set_fields = [], 0, set()
    for data in itertools.islice(iter(lambda: mutator.request(v1.CreateGenerationRequest), None), 3000):
        try:
            parsed.append(v1.CreateGenerationRequest.FromString(data))
        except (DecodeError, UnicodeDecodeError):
            broken += 1
    for request in parsed:
        set_fields |= {field.name for field, _ in request.ListFields()}
        set_fields |= {f"spec.{field.name}" for field, _ in request.spec.ListFields()}
    assert broken > 300
    assert len(parsed) > 1500
    assert set_fields >= {field.name for field in v1.CreateGenerationRequest.DESCRIPTOR.fields}
    assert set_fields >= {f"spec.{field.name}" for field in generation_pb2.GenerationSpec.DESCRIPTOR.fields}
    assert max(request.ByteSize() for request in parsed) > 10_000
