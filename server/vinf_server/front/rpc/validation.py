"""Requests against their documented ranges: every violation at once, with field, value and what is allowed.

The ranges are those of the comments in `protos/vinf/v1`; the model's own come from rank 0's report.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence

from vinf.engine.v1 import engine_link_service_pb2 as link_pb2
from vinf.v1 import generation_pb2, video_generation_service_pb2
from vinf_server.front.errors import InvalidFieldsError, ModelNotFoundError, SpecTooLargeError, Violation
from vinf_server.front.folders import GENERATION_ID
from vinf_server.front.generations.generation import Terms
from vinf_server.front.rpc.memory import check_memory
from vinf_server.front.rpc.spec import SpecValidator, range_text
from vinf_server.front.rpc.terms import check_terms

MAX_PAGE_SIZE = 500
DEFAULT_PAGE_SIZE = 50

_SIZE_FIELDS = {"spec.frame_count", "spec.width", "spec.height"}
"""What a generation takes of the ranks' memory follows from these."""

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def check_create(
    request: video_generation_service_pb2.CreateGenerationRequest,
    limits: link_pb2.ModelLimits,
    memory: link_pb2.MemoryModel,
    *,
    owner: str = "",
    is_retry: bool = False,
    found: Sequence[Violation] = (),
) -> tuple[generation_pb2.GenerationSpec, Terms]:
    """Return the specification with every default but the seed filled in, and the terms.

    Args:
        request: as it came.
        limits: of the model.
        memory: of a rank.
        owner: who asks.
        is_retry: its request_id is known: a deadline that was ahead then may have passed.
        found: what is wrong with its images, which are not looked at here.

    Raises:
        ModelNotFoundError: another model was asked for.
        SpecTooLargeError: everything is in order, but a rank's memory does not hold it.
        InvalidFieldsError: anything else; with all violations, the memory's among them.
    """
    wanted = request.spec.model
    if wanted and wanted != limits.name:
        shown = wanted[:64]
        raise ModelNotFoundError(f"no model is called {shown!r}; this server has {limits.name!r}", model=shown)
    validator = SpecValidator(limits)
    normalised = validator.check(request.spec)
    violations = validator.violations
    violations += found
    terms = check_terms(request, violations, owner=owner, is_retry=is_retry)
    if request.request_id and not _UUID.fullmatch(request.request_id):
        violations.append(
            Violation("request_id", f"must be a UUID of 36 characters or empty, got {request.request_id[:40]!r}")
        )
    if _SIZE_FIELDS.isdisjoint(violation.field for violation in violations):
        try:
            check_memory(normalised, memory, limits)
        except SpecTooLargeError as error:
            if not violations:
                raise
            violations += error.violations
    _raise_if_any(violations)
    return normalised, terms


def check_list(request: video_generation_service_pb2.ListGenerationsRequest) -> tuple[int, str]:
    """Return the page size and the id that the page follows."""
    violations: list[Violation] = []
    if request.page_size < 0:
        violations.append(
            Violation("page_size", range_text(request.page_size, 0, MAX_PAGE_SIZE, zero=str(DEFAULT_PAGE_SIZE)))
        )
    known = generation_pb2.GenerationState.values()
    for position, state in enumerate(request.states):
        if state not in known:
            violations.append(
                Violation(f"states[{position}]", f"must be a GenerationState in [0, {max(known)}], got {state}")
            )
    before_id = _read_page_token(request.page_token, violations)
    _raise_if_any(violations)
    return min(request.page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE), before_id


def make_page_token(last_id: str) -> str:
    """Where the next page begins, opaque to clients."""
    return base64.urlsafe_b64encode(b"1:" + last_id.encode()).decode().rstrip("=")


def check_watch(request: video_generation_service_pb2.WatchGenerationRequest) -> int:
    """Return the sequence of the last event that the client knows."""
    if request.after_sequence < 0:
        raise InvalidFieldsError(
            [
                Violation(
                    "after_sequence", f"must be in [0, 2^63 - 1] (default all events), got {request.after_sequence}"
                )
            ]
        )
    return request.after_sequence


def _read_page_token(token: str, violations: list[Violation]) -> str:
    if not token:
        return ""
    try:
        text = base64.b64decode(token.encode() + b"=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        text = ""
    version, _, last_id = text.partition(":")
    if version == "1" and GENERATION_ID.fullmatch(last_id):
        return last_id
    violations.append(
        Violation("page_token", f"must be next_page_token of an earlier reply or empty, got {token[:40]!r}")
    )
    return ""


def _raise_if_any(violations: Sequence[Violation]) -> None:
    if violations:
        raise InvalidFieldsError(violations)
