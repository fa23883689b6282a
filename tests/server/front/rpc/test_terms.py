"""What a client asks for beside the specification."""

import time

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.wrappers_pb2 import Int32Value

from vinf.v1 import generation_pb2
from vinf.v1.video_generation_service_pb2 import CreateGenerationRequest
from vinf_server.front.generations.generation import Terms
from vinf_server.front.rpc.terms import check_terms

pytestmark = pytest.mark.fast

BLOCK, DROP = generation_pb2.OVERFLOW_POLICY_BLOCK, generation_pb2.OVERFLOW_POLICY_DROP_OLDEST


def check(**fields):
    violations = []
    terms = check_terms(CreateGenerationRequest(**fields), violations, owner="me")
    return terms, violations


def soon(seconds):
    return Timestamp(seconds=int(time.time()) + seconds)


def test_defaults():
    assert check() == (Terms(owner="me", priority=5, lease_s=60.0), [])


def test_everything_asked_for():
    deadline = soon(60)
    terms, violations = check(
        priority=Int32Value(value=0),
        lease_duration=Duration(seconds=5),
        deadline=deadline,
        retention_frame_count=64,
        overflow_policy=DROP,
        labels={"b": "2", "a": "1"},
        preview_interval_steps=1000,
    )
    assert not violations
    assert terms == Terms(
        owner="me",
        priority=0,
        lease_s=5.0,
        deadline_ns=deadline.ToNanoseconds(),
        retention_frame_count=64,
        drops_oldest=True,
        labels=(("a", "1"), ("b", "2")),
        preview_interval_steps=1000,
    )


def test_a_detached_one_has_no_lease():
    assert check(detached=True)[0].lease_s is None
    assert check(detached=True, lease_duration=Duration(seconds=10))[0].lease_s is None


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("priority", Int32Value(value=-1), "[0, 9]"),
        ("priority", Int32Value(value=10), "got 10"),
        ("lease_duration", Duration(seconds=-1), "[5, 3600] seconds"),
        ("lease_duration", Duration(seconds=4), "got 4"),
        ("lease_duration", Duration(seconds=3_600_000), "got 3600000"),
        ("lease_duration", Duration(seconds=10, nanos=-5), "got nan"),
        ("deadline", soon(-10), "future"),
        ("deadline", soon(31 * 86400), "30 days"),
        ("deadline", Timestamp(seconds=2**40, nanos=-1), "contradict"),
        ("retention_frame_count", 63, "[64, 2147483647] frames"),
        ("retention_frame_count", -1, "got -1"),
        ("retention_frame_count", 2**31, "got 2147483648"),
        ("overflow_policy", 99, "got 99"),
        ("overflow_policy", DROP, "retention_frame_count"),
        ("preview_interval_steps", -1, "[0, 1000] steps (default no previews), got -1"),
        ("preview_interval_steps", 1001, "got 1001"),
        ("labels", {"Upper": "x"}, "'Upper'"),
        ("labels", {"": "x"}, "1 to 63"),
        ("labels", {str(number): "x" for number in range(17)}, "got 17"),
    ],
)
def test_what_is_out_of_range_is_named_with_its_value(field, value, named):
    _, violations = check(**{field: value})
    assert [violation.field for violation in violations] == [field]
    assert named in violations[0].description


def test_a_long_label_is_named():
    _, violations = check(labels={"key": "x" * 256})
    assert [(violation.field, "got 256" in violation.description) for violation in violations] == [
        ("labels['key']", True)
    ]


def test_every_violation_is_reported_at_once():
    _, violations = check(priority=Int32Value(value=99), retention_frame_count=1, overflow_policy=7)
    assert [violation.field for violation in violations] == ["priority", "retention_frame_count", "overflow_policy"]
