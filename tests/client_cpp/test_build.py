"""The library as others build it: any compiler, any standard, Windows' macros, an installed package."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.client_cpp.conftest import BUILD_TIMEOUT_S, ENVIRONMENT, SANITIZERS
from tests.client_cpp.toolchain import BUILD, CLANG, ROOT, SOURCE, need, run

pytestmark = [pytest.mark.process, pytest.mark.timeout(BUILD_TIMEOUT_S)]

HEADERS = sorted(path.name for path in (SOURCE / "include" / "vinf").iterdir())
PORTABLE = sorted(
    re.findall(r"src/\w+\.cc", (SOURCE / "CMakeLists.txt").read_text().partition("core_sources")[2].partition(")")[0])
)
"""Sources that include neither gRPC nor protobuf."""

STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror", "-fsyntax-only")


def test_headers_compile_alone(tmp_path):
    """Nothing below the include path but them: no gRPC, no generated code."""
    need(("g++",))
    assert len(HEADERS) >= 8
    for header in HEADERS:
        (tmp_path / f"{header}.cc").write_text(f'#include "vinf/{header}"\n')
    run("g++", "-std=c++17", *STRICT, f"-I{SOURCE / 'include'}", *tmp_path.glob("*.cc"))


@pytest.mark.parametrize("standard", ["c++17", "c++20"])
@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_headers_compile_without_a_warning(compiler, standard, tmp_path):
    need(("g++",) if compiler == "g++" else CLANG)
    unit = tmp_path / "all.cc"
    unit.write_text("".join(f'#include "vinf/{header}"\n' for header in HEADERS))
    run(compiler, f"-std={standard}", *STRICT, f"-I{SOURCE / 'include'}", unit)


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_headers_survive_the_macros_of_windows(compiler):
    need(("g++",) if compiler == "g++" else CLANG)
    run(compiler, "-std=c++17", *STRICT, f"-I{SOURCE / 'include'}", SOURCE / "tests" / "win32_names.cc")


def test_clang_has_nothing_to_say_about_the_sources():
    need(CLANG)
    assert len(PORTABLE) >= 8
    sources = [SOURCE / source for source in PORTABLE]
    run("clang++", "-std=c++17", *STRICT, f"-I{SOURCE / 'include'}", f"-I{SOURCE / 'src'}", *sources, timeout=120)


def test_public_headers_show_neither_grpc_nor_generated_code():
    for header in HEADERS:
        included = re.findall(r'#include [<"]([^>"]+)', (SOURCE / "include" / "vinf" / header).read_text())
        assert not [name for name in included if "grpc" in name or "protobuf" in name or ".pb.h" in name], header


def test_the_version_is_that_of_the_project():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"project(vinf VERSION {version} " in (SOURCE / "CMakeLists.txt").read_text()


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_parts_that_know_no_network(built, sanitizer):
    out = run(built / f"core_test_{sanitizer}", env={**os.environ, **ENVIRONMENT})
    assert out.count("ok ") >= 25


def test_an_installed_library_is_found_and_linked(built, tmp_path):
    """By a program of its own, which knows nothing of this repository."""
    need(BUILD)
    prefix, build = tmp_path / "prefix", tmp_path / "build"
    run("cmake", "--install", built, "--prefix", prefix)
    consumer = SOURCE / "tests" / "package"
    run("cmake", "-G", "Ninja", "-S", consumer, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}")
    run("ninja", "-C", build, timeout=120)
    assert run(build / "consumer").startswith("INVALID_ARGUMENT/INVALID_FIELD: address: must be HOST:PORT")
    installed = {path.relative_to(prefix).as_posix() for path in prefix.rglob("*") if path.is_file()}
    assert {f"include/vinf/{header}" for header in HEADERS} <= installed
    assert not [name for name in installed if name.endswith((".pb.h", ".proto"))]


def test_a_wrong_version_is_not_found(built, tmp_path):
    prefix = tmp_path / "prefix"
    run("cmake", "--install", built, "--prefix", prefix)
    source = tmp_path / "consumer"
    source.mkdir()
    (source / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(consumer LANGUAGES NONE)\nfind_package(vinf 99 REQUIRED)\n"
    )
    command = ["cmake", "-S", source, "-B", tmp_path / "b", f"-DCMAKE_PREFIX_PATH={prefix}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert re.search(r"vinf-config\.cmake, version: 0\.1\.0", done.stderr), done.stderr


def test_every_source_is_built():
    """A file that nobody compiles rots."""
    text = "".join(path.read_text() for path in SOURCE.rglob("CMakeLists.txt"))
    for path in SOURCE.rglob("*.cc"):
        relative = path.relative_to(SOURCE)
        if relative != Path("tests/win32_names.cc") and relative.parts[:2] != ("tests", "package"):
            assert relative.as_posix() in text, relative
