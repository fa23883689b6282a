"""Generations that waited while the server was restarted, against the model that it serves now."""

from __future__ import annotations

from google.rpc import code_pb2

from vinf.engine.v1 import engine_link_service_pb2 as link_pb2
from vinf.v1 import generation_pb2, video_generation_service_pb2
from vinf_server.front.errors import VinfError
from vinf_server.front.generations.generation import Failure
from vinf_server.front.rpc.errors import TABLE
from vinf_server.front.rpc.validation import check_create


def restored_failure(spec: generation_pb2.GenerationSpec, report: link_pb2.ReadyReport) -> Failure | None:
    """Why the ranks that report cannot make what others could, as CreateGeneration would say it; None: they can."""
    request = video_generation_service_pb2.CreateGenerationRequest(spec=spec)
    try:
        check_create(request, report.model, report.memory)
    except VinfError as error:
        message = f"the server was restarted, and cannot make it any more: {error.message}"
        return Failure(code_pb2.FAILED_PRECONDITION, TABLE[type(error)].reason, message, dict(error.metadata))
    return None
