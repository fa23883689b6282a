"""What a fake server refuses, as a real one would."""

import grpc

from vinf.v1 import frame_pb2
from vinf.v1 import generation_pb2 as pb
from vinf.v1 import video_generation_service_pb2 as service_pb
from vinf_client.testing._generation import FakeGeneration
from vinf_client.testing._model import LIMITS, MODEL
from vinf_client.testing._status import refuse

Violations = list[tuple[str, str]]


def check_create(request: service_pb.CreateGenerationRequest, context: grpc.ServicerContext) -> None:
    """Return when the generation can be made; end the call otherwise."""
    if request.spec.model not in ("", MODEL.name):
        message = f"the model {request.spec.model!r} is not served; {MODEL.name!r} is"
        refuse(context, grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", message)
    violations = _spec_violations(request.spec)
    for name, value, most in (
        ("priority", request.priority.value, 9),
        ("preview_interval_steps", request.preview_interval_steps, 1000),
    ):
        if not 0 <= value <= most:
            violations.append((name, f"must be in [0, {most}], got {value}"))
    _refuse(context, violations)


def check_frames(
    request: service_pb.StreamFramesRequest | service_pb.PullFramesRequest,
    generation: FakeGeneration,
    context: grpc.ServicerContext,
) -> None:
    """Return when frames can be read from there in that format; end the call otherwise."""
    count, start = generation.spec.frame_count, request.start_frame_index
    violations = _format_violations(request.output_format)
    if not 0 <= start <= count:
        violations.append(("start_frame_index", f"must be in [0, {count}] frames, got {start}"))
    _refuse(context, violations)
    first = generation.script.evict_before
    if start < first and request.delivery != service_pb.DELIVERY_LATEST:
        message = f"frame {start} is no longer kept; {first} is the oldest"
        metadata = {"firstAvailableFrameIndex": str(first)}
        refuse(context, grpc.StatusCode.OUT_OF_RANGE, "FRAME_EVICTED", message, metadata=metadata)


def _spec_violations(asked: pb.GenerationSpec) -> Violations:
    """Return what breaks the limits."""
    sizes = (MODEL.min_width, MODEL.max_width)
    ranges = {
        "frame_count": (1, MODEL.max_frame_count),
        "width": sizes,
        "height": sizes,
        "inference_step_count": (1, LIMITS.max_step_count),
        "guidance_scale": (1, LIMITS.max_guidance_scale),
    }
    found = []
    if not 1 <= len(asked.prompt.strip()) <= MODEL.max_prompt_chars:
        found.append(("spec.prompt", f"must have [1, {MODEL.max_prompt_chars}] characters"))
    for name, (least, most) in ranges.items():
        value = getattr(asked, name)
        if value and not least <= value <= most:
            found.append((f"spec.{name}", f"must be in [{least}, {most}], got {value}"))
    if asked.image_conditions:
        problem = f"model {MODEL.name!r} takes no images, got {len(asked.image_conditions)}"
        found.append(("spec.image_conditions", problem))
    for name in ("width", "height"):
        if getattr(asked, name) % MODEL.size_multiple:
            found.append((f"spec.{name}", f"must be a multiple of {MODEL.size_multiple}, got {getattr(asked, name)}"))
    return found


def _format_violations(wanted: frame_pb2.OutputFormat) -> Violations:
    """Return what cannot be had."""
    found = []
    alignment = wanted.row_alignment_bytes
    if alignment and not (1 <= alignment <= 256 and alignment & (alignment - 1) == 0):
        found.append(("output_format.row_alignment_bytes", f"must be a power of two in [1, 256], got {alignment}"))
    if not 0 <= wanted.jpeg_quality <= 100:
        found.append(("output_format.jpeg_quality", f"must be in [1, 100], got {wanted.jpeg_quality}"))
    is_file = wanted.encoding in (frame_pb2.FRAME_ENCODING_JPEG, frame_pb2.FRAME_ENCODING_PNG)
    if is_file and wanted.row_order == frame_pb2.ROW_ORDER_BOTTOM_UP:
        found.append(("output_format.row_order", "must be TOP_DOWN with JPEG and PNG"))
    return found


def _refuse(context: grpc.ServicerContext, violations: Violations) -> None:
    if violations:
        message = "; ".join(f"{field}: {text}" for field, text in violations)
        refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", message, violations=violations)
