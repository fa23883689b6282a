"""Every public RPC and the errors it documents, read from the contracts: new ones are found by themselves."""

from __future__ import annotations

import importlib
import pkgutil
import re
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

import vinf.v1

PROTOS = Path(__file__).parents[2] / "protos"

_ERROR = re.compile(r"\b([A-Z_]{2,}) / ([A-Z][A-Z0-9_]+)\b")

_ANY_RPC = frozenset({("INVALID_ARGUMENT", "MALFORMED_REQUEST")})
"""What every RPC may answer: the bytes were no message at all."""

_HEALTH = frozenset({("NOT_FOUND", "")})
"""The standard health service knows no error details."""


@dataclass(frozen=True, slots=True)
class Rpc:
    """One method with one request."""

    path: str
    """As HTTP/2 has it: /package.Service/Method."""

    request: type[Message]
    reply: type[Message]
    streams: bool
    """Whether replies are a stream."""

    errors: frozenset[tuple[str, str]]
    """Status and reason word of each documented error."""

    @property
    def name(self) -> str:
        """The method alone."""
        return self.path.rpartition("/")[2]


def public_rpcs() -> list[Rpc]:
    """Every RPC of `vinf.v1` and of the health service."""
    found = []
    for module in pkgutil.iter_modules(vinf.v1.__path__):
        if module.name.endswith("_pb2"):
            file = importlib.import_module(f"vinf.v1.{module.name}").DESCRIPTOR
            text = (PROTOS / file.name).read_text()
            for service in file.services_by_name.values():
                found += [_rpc(method, documented_errors(text, method.name)) for method in service.methods]
    # Its Watch never ends by itself and its List is not served.
    check = health_pb2.DESCRIPTOR.services_by_name["Health"].methods_by_name["Check"]
    return [*found, _rpc(check, _HEALTH)]


def documented_errors(proto: str, method: str) -> frozenset[tuple[str, str]]:
    """The pairs of status and reason in the comment above an RPC."""
    match = re.search(rf"((?:^ *//.*\n)+) *rpc {method}\(", proto, re.MULTILINE)
    comment = re.sub(r"\n *//", "", match[1]) if match else ""
    return frozenset(_ERROR.findall(comment))


def _rpc(method: MethodDescriptor, errors: frozenset[tuple[str, str]]) -> Rpc:
    return Rpc(
        path=f"/{method.containing_service.full_name}/{method.name}",
        request=message_factory.GetMessageClass(method.input_type),
        reply=message_factory.GetMessageClass(method.output_type),
        streams=method.server_streaming,
        errors=errors | _ANY_RPC,
    )
