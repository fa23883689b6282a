"""The body of a request as a message; what is wrong with it is told field by field, before any range is looked at."""

from __future__ import annotations

import json
import re
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import ParseDict, ParseError
from starlette.requests import Request

from vinf.v1.video_generation_service_pb2 import CreateGenerationRequest
from vinf_server.front.errors import InvalidFieldsError, MalformedRequestError, Violation

_MAX_BYTES = 256 << 10
"""A prompt for each of 64 segments takes a part of it."""

_WHOLE = re.compile(r"[+-]?\d{1,30}")
_BITS = {FieldDescriptor.CPPTYPE_INT32: 32, FieldDescriptor.CPPTYPE_INT64: 64}
_SHOWN_CHARS = 40


async def read_create(request: Request) -> CreateGenerationRequest:
    """Return the request for a generation.

    Raises:
        MalformedRequestError: the body is too long, no JSON, or no such message.
        InvalidFieldsError: values are of the wrong kind; with all of them.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BYTES:
            raise MalformedRequestError(f"the request has more than {_MAX_BYTES} bytes")
    return parse_create(bytes(body))


def parse_create(body: bytes) -> CreateGenerationRequest:
    """Read the JSON of a CreateGenerationRequest; raises as `read_create`."""
    try:
        wanted = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise MalformedRequestError("the request is no JSON") from error
    if not isinstance(wanted, dict):
        raise MalformedRequestError("the request is no JSON object")
    violations: list[Violation] = []
    _check(wanted, CreateGenerationRequest.DESCRIPTOR, "", violations)
    if violations:
        raise InvalidFieldsError(violations)
    try:
        return ParseDict(wanted, CreateGenerationRequest())
    except ParseError as error:
        what = str(error).partition("\n")[0].rstrip(".")  # then come all the fields that there are
        raise MalformedRequestError(f"the request is no CreateGenerationRequest: {what[:200]}") from error


def _check(value: dict[str, Any], descriptor: Descriptor, path: str, violations: list[Violation]) -> None:
    """Look at the numbers, in messages within messages too; the rest is ParseDict's."""
    for name, item in value.items():
        field = descriptor.fields_by_name.get(name)
        if field is None:
            continue
        items = enumerate(item) if field.is_repeated and isinstance(item, list) else [(None, item)]
        for index, each in items:
            here = f"{path}{name}" if index is None else f"{path}{name}[{index}]"
            if field.message_type is not None and field.message_type.full_name == "google.protobuf.Int32Value":
                _check_number(each, FieldDescriptor.CPPTYPE_INT32, here, violations)
            elif field.message_type is not None and isinstance(each, dict):
                _check(each, field.message_type, f"{here}.", violations)
            else:
                _check_number(each, field.cpp_type, here, violations)


def _check_number(value: Any, kind: int, path: str, violations: list[Violation]) -> None:
    """The page sends what was typed: numbers come as text."""
    shown = value[:_SHOWN_CHARS] if isinstance(value, str) else str(value)[:_SHOWN_CHARS]
    if kind in _BITS:
        bits = _BITS[kind]
        if not _WHOLE.fullmatch(str(value)):
            violations.append(Violation(path, f"must be a whole number, got {shown!r}"))
        elif not -(2 ** (bits - 1)) <= int(value) < 2 ** (bits - 1):
            violations.append(Violation(path, f"must be a whole number of at most {bits} bits, got {shown}"))
    elif kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        try:
            float(value)
        except (TypeError, ValueError):
            violations.append(Violation(path, f"must be a number, got {shown!r}"))
