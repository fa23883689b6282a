"""Write docs/protocol.md: what the comments of the public contracts say, as tables.

python scripts/protocol_reference.py            # writes it
python scripts/protocol_reference.py --check    # exits with 1 when it would change
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)
from grpc_tools import protoc

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "protocol.md"
FILES = (
    "vinf/v1/video_generation_service.proto",
    "vinf/v1/generation.proto",
    "vinf/v1/frame.proto",
    "vinf/v1/server_info_service.proto",
)

_SERVICE, _MESSAGE, _ENUM = 6, 4, 5
_METHOD, _FIELD, _VALUE = 2, 2, 2
"""Field numbers of descriptor.proto: how comments are addressed."""

_HEAD = """\
# Protocol reference

<!-- Written by scripts/protocol_reference.py from protos/vinf/v1: change the comments there. -->

Package `vinf.v1`, in the order in which a client meets it. The contracts compile unmodified with protoc 3.21 and later;
they use no `optional` field, no `Any` and no unsigned number. Errors are explained in [Errors](errors.md), numbers that
depend on the server in [Limits](limits.md).

Messages that this page does not define are those of `google.protobuf`.
"""


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 when the page is out of date")
    arguments = parser.parse_args()
    text = page(described())
    if not arguments.check:
        PAGE.write_text(text)
        return 0
    if PAGE.read_text() == text:
        return 0
    print(f"{PAGE.relative_to(ROOT)} is out of date: python scripts/{Path(__file__).name}", file=sys.stderr)
    return 1


def described() -> list[FileDescriptorProto]:
    """Compile the public contracts; return them with their comments."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "vinf.binpb")
        well_known = resources.files("grpc_tools") / "_proto"
        command = ["protoc", f"-I{ROOT / 'protos'}", f"-I{well_known}", f"--descriptor_set_out={out}"]
        if protoc.main([*command, "--include_source_info", *FILES]) != 0:
            raise SystemExit("the contracts do not compile")
        files = {file.name: file for file in FileDescriptorSet.FromString(out.read_bytes()).file}
    return [files[name] for name in FILES]


def page(files: Sequence[FileDescriptorProto]) -> str:
    """Return the whole page."""
    lines = [_HEAD]
    for file in files:
        comments = {tuple(entry.path): entry.leading_comments.strip() for entry in file.source_code_info.location}
        lines.append(f"## {_title(file.name)}\n\n`protos/{file.name}`\n")
        for index, service in enumerate(file.service):
            lines += _service(service, comments, (_SERVICE, index))
        for index, message in enumerate(file.message_type):
            lines += _message(message, comments, (_MESSAGE, index))
        for index, enum in enumerate(file.enum_type):
            lines += _enum(enum, comments, (_ENUM, index))
    return "\n".join(lines).rstrip() + "\n"


Comments = dict[tuple[int, ...], str]
Place = tuple[int, ...]


def _title(name: str) -> str:
    return Path(name).stem.replace("_", " ").capitalize()


def _service(service: ServiceDescriptorProto, comments: Comments, place: Place) -> Iterator[str]:
    yield f"### {service.name}\n\n{_prose(comments[place])}\n"
    for index, method in enumerate(service.method):
        stream = "stream of " if method.server_streaming else ""
        yield f"#### {method.name}\n"
        yield f"{_link(method.input_type)} → {stream}{_link(method.output_type)}\n"
        yield f"{_prose(comments[(*place, _METHOD, index)])}\n"


def _message(message: DescriptorProto, comments: Comments, place: Place) -> Iterator[str]:
    yield f"### {message.name}\n"
    if comment := comments.get(place):
        yield f"{_prose(comment)}\n"
    if not message.field:
        yield "No fields.\n"
        return
    yield "| field | type | what it is |\n| --- | --- | --- |"
    maps = {entry.name: entry for entry in message.nested_type if entry.options.map_entry}
    for index, field in enumerate(message.field):
        comment = comments.get((*place, _FIELD, index), "")
        name = f"`{field.name}` = {field.number}"
        yield f"| {name} | {_type(field, message, maps)} | {_cell(comment)} |"
    yield ""


def _enum(enum: EnumDescriptorProto, comments: Comments, place: Place) -> Iterator[str]:
    yield f"### {enum.name}\n"
    if comment := comments.get(place):
        yield f"{_prose(comment)}\n"
    yield "| value | number | what it is |\n| --- | --- | --- |"
    for index, value in enumerate(enum.value):
        comment = comments.get((*place, _VALUE, index), "")
        yield f"| `{value.name}` | {value.number} | {_cell(comment)} |"
    yield ""


def _type(field: FieldDescriptorProto, message: DescriptorProto, maps: dict[str, DescriptorProto]) -> str:
    short = field.type_name.rsplit(".", 1)[-1]
    if short in maps:
        key, value = maps[short].field
        return f"map of {_scalar(key)} to {_scalar(value)}"
    name = _link(field.type_name) if field.type_name else _scalar(field)
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {name}"
    return f"{name}, one of `{message.oneof_decl[field.oneof_index].name}`" if field.HasField("oneof_index") else name


def _scalar(field: FieldDescriptorProto) -> str:
    return FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()


def _link(type_name: str) -> str:
    package, _, name = type_name.lstrip(".").rpartition(".")
    return f"[{name}](#{name.lower()})" if package == "vinf.v1" else name


def _prose(comment: str) -> str:
    """A comment as paragraphs; names in capitals with a slash are codes and reasons."""
    text = " ".join(line.strip() for line in comment.splitlines())
    text = re.sub(r" (Errors: )", r"\n\n\1", text)
    return _code(text)


def _cell(comment: str) -> str:
    """A comment in one cell: its sentences, then each line of default, range and unit on a line of its own."""
    parts: list[str] = []
    for line in (line.strip() for line in comment.splitlines()):
        starts = re.match(r"(Default|Range|Unit|Violation):", line)
        if starts or not parts:
            parts.append(line)
        else:
            parts[-1] += f" {line}"
    return "<br>".join(_code(part.replace("|", "·")) for part in parts)


def _code(text: str) -> str:
    """Set identifiers as code: snake_case, UPPER_CASE, and what must not be read as HTML or as Markdown."""
    text = text.replace("<", "&lt;").replace("*", "\\*")
    return re.sub(r"(?<![`\w])([A-Z]{2,}(?:_[A-Z0-9]+)+|[A-Z]{5,}|[a-z]+(?:_[a-z0-9]+)+)(?![`\w])", r"`\1`", text)


if __name__ == "__main__":
    sys.exit(main())
