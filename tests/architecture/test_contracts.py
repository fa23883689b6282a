"""The contracts under protos/: documented, plain enough for old compilers and engine plugins, the source of gen/."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

ROOT = Path(__file__).parents[2]
PROTOS = ROOT / "protos"
FILES = sorted(path.relative_to(PROTOS).as_posix() for path in (PROTOS / "vinf").rglob("*.proto"))

NUMERIC = {
    FieldDescriptorProto.TYPE_DOUBLE,
    FieldDescriptorProto.TYPE_FLOAT,
    FieldDescriptorProto.TYPE_INT32,
    FieldDescriptorProto.TYPE_INT64,
    FieldDescriptorProto.TYPE_SINT32,
    FieldDescriptorProto.TYPE_SINT64,
    FieldDescriptorProto.TYPE_SFIXED32,
    FieldDescriptorProto.TYPE_SFIXED64,
}
INPUT_MESSAGES = {"GenerationSpec", "TemporalScope", "PromptSegment", "ImageCondition", "Rational"}
"""What clients send, besides every message that is called ...Request."""

_MESSAGE_TYPE, _FIELD = 4, 2
"""Field numbers in FileDescriptorProto and DescriptorProto: how source locations are addressed."""


@pytest.fixture(scope="module")
def public_files(tmp_path_factory: pytest.TempPathFactory) -> list[FileDescriptorProto]:
    """The files of vinf.v1 with their comments."""
    from grpc_tools import protoc

    out = tmp_path_factory.mktemp("descriptors") / "vinf.binpb"
    well_known = resources.files("grpc_tools") / "_proto"
    arguments = ["protoc", f"-I{PROTOS}", f"-I{well_known}", f"--descriptor_set_out={out}", "--include_source_info"]
    assert protoc.main([*arguments, *FILES]) == 0
    every_file = FileDescriptorSet.FromString(out.read_bytes()).file
    return [file for file in every_file if file.package == "vinf.v1"]


def commented_fields(file: FileDescriptorProto) -> Iterator[tuple[DescriptorProto, FieldDescriptorProto, str]]:
    comments = {
        tuple(location.path): location.leading_comments + location.trailing_comments
        for location in file.source_code_info.location
    }
    for message_index, message in enumerate(file.message_type):
        for field_index, field in enumerate(message.field):
            path = (_MESSAGE_TYPE, message_index, _FIELD, field_index)
            yield message, field, comments.get(path, "").strip()


@pytest.mark.fast
def test_every_public_field_is_documented(public_files: list[FileDescriptorProto]) -> None:
    silent = [
        f"{message.name}.{field.name}"
        for file in public_files
        for message, field, comment in commented_fields(file)
        if not comment
    ]
    assert not silent, f"fields without a comment: {silent}"


@pytest.mark.fast
def test_every_number_a_client_sends_names_its_range(public_files: list[FileDescriptorProto]) -> None:
    checked, silent = 0, []
    for file in public_files:
        for message, field, comment in commented_fields(file):
            is_input = message.name.endswith("Request") or message.name in INPUT_MESSAGES
            if is_input and field.type in NUMERIC:
                checked += 1
                if "Range: [" not in comment:
                    silent.append(f"{message.name}.{field.name}")
    assert checked > 10, "the test looks at hardly any field"
    assert not silent, f"numbers without 'Range: [low, high]' in their comment: {silent}"


@pytest.mark.fast
@pytest.mark.parametrize("name", FILES)
def test_only_words_that_every_compiler_and_plugin_takes(name: str) -> None:
    """Engine plugins know neither `optional` nor `Any`; protoc 3.21 no editions; `[ctype]` hides C++ accessors."""
    code = re.sub(r"//[^\n]*", "", (PROTOS / name).read_text())
    assert 'syntax = "proto3";' in code
    found = re.findall(r"\b(?:optional|Any|ctype|edition|features|group|u?fixed32|u?fixed64|uint32|uint64)\b", code)
    assert not found, f"{name} uses {sorted(set(found))}"


@pytest.mark.process
def test_stubs_are_what_the_protos_say(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHON": sys.executable}
    script = ROOT / "scripts" / "generate_stubs.sh"
    subprocess.run([script, tmp_path], cwd=ROOT, env=environment, check=True, timeout=120)
    fresh, committed = stub_texts(tmp_path), stub_texts(ROOT / "gen")
    assert sorted(fresh) == sorted(committed), "other files than under gen/: run make stubs"
    stale = [name for name, text in fresh.items() if committed[name] != text]
    assert not stale, f"stale, run make stubs: {stale}"


def stub_texts(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): path.read_text()
        for path in (root / "vinf").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.process
def test_buf_finds_nothing() -> None:
    buf = Path(sys.executable).with_name("buf")
    done = subprocess.run([buf, "lint"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.process
@pytest.mark.parametrize("standard", ["c++17", "c++20"])
def test_contracts_compile_as_cpp_without_a_warning(standard: str, tmp_path: Path) -> None:
    """With the system's protoc (3.21 on Debian 12), the one that C++ projects build against its headers."""
    protoc, compiler = shutil.which("protoc"), shutil.which("g++")
    if protoc is None or compiler is None:
        pytest.skip("protoc or g++ is missing: apt-get install protobuf-compiler libprotobuf-dev g++")
    probe = tmp_path / "probe.cc"
    probe.write_text("#include <google/protobuf/message.h>\n")
    if subprocess.run([compiler, "-fsyntax-only", probe], capture_output=True, timeout=60, check=False).returncode:
        pytest.skip("the C++ headers of protobuf are missing: apt-get install libprotobuf-dev")
    generate = [protoc, f"-I{PROTOS}", f"--cpp_out={tmp_path}", *FILES]
    done = subprocess.run(generate, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    # One translation unit: the library's headers, which take most of the time, are read once. The generated files give
    # some of their static tables the same names.
    everything = tmp_path / "everything.cc"
    everything.write_text(
        "".join(
            f"#undef file_default_instances\n#define file_default_instances file_default_instances_{number}\n"
            f"#undef schemas\n#define schemas schemas_{number}\n"
            f'#include "{Path(name).with_suffix(".pb.cc")}"\n'
            for number, name in enumerate(FILES)
        )
    )
    flags = [f"-std={standard}", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{tmp_path}"]
    done = subprocess.run([compiler, *flags, everything], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
