"""C++ in the documents: whole programs are the examples, which tests/client_cpp runs; pieces compile."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.client_cpp.toolchain import SOURCE, need, run
from tests.docs.blocks import ROOT, Block, all_blocks

BLOCKS = [block for block in all_blocks() if block.language == "cpp" and block.page.is_relative_to(ROOT / "docs")]
PROGRAMS = [block for block in BLOCKS if "int main(" in block.text]
PIECES = [block for block in BLOCKS if block not in PROGRAMS]

AROUND = """
#include <cstdio>
#include <vinf/vinf.h>
std::chrono::microseconds media_time();
int report(const vinf::Status& status);
void upload(const std::uint8_t* pixels, std::int64_t stride);
"""

ABOUT_A_PULLER = "int piece(const vinf::FramePuller& puller) {{\n{body}return 0;\n}}\n"
ABOUT_A_GENERATION = "int piece(const vinf::Client& client, const std::string& generation_id) {{\n{body}return 0;\n}}\n"


@pytest.mark.fast
@pytest.mark.parametrize("block", PROGRAMS, ids=str)
def test_programs_are_the_examples(block: Block) -> None:
    examples = [path.read_text() for path in (SOURCE / "examples").glob("*.cc")]
    assert block.text in examples, f"{block} differs from the program in client/cpp/examples that the tests run"


@pytest.mark.process
def test_pieces_compile(tmp_path: Path) -> None:
    need(("g++",))
    assert PIECES
    for block in PIECES:
        begins_with_a_puller = "FramePuller::start" not in block.text
        piece = (ABOUT_A_PULLER if begins_with_a_puller else ABOUT_A_GENERATION).format(body=block.text)
        unit = tmp_path / f"line_{block.line}.cc"
        unit.write_text(AROUND + "int piece" + piece.split("int piece", 1)[1].split("{", 1)[0].strip() + ";\n" + piece)
        strict = ("-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only")
        run("g++", "-std=c++17", *strict, f"-I{SOURCE / 'include'}", unit, timeout=120)
