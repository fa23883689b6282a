"""Every code block of the documents does what it says.

Shell and Python blocks of a page run in order, in one empty folder that has the `.venv` of this checkout, against a
server that the page itself starts, or else against the SDK's own fake one. Programs in C++ are those of
`client/cpp/examples`, which tests/client_cpp builds and runs; pieces of C++ are compiled as the body of a function.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from tests.docs.blocks import PAGES, ROOT, Block, all_blocks, blocks
from tests.support.server import Server

RUN = {"sh", "python"}
READ = {"json": json.loads, "toml": tomllib.loads, "yaml": yaml.safe_load}
COMPILED = {"cpp", "cmake"}  # test_cpp_blocks.py, tests/client_cpp
PLAIN = {"", "text", "proto", "csharp"}

TIMEOUT_S = 150


def runs(page: Path) -> bool:
    return any(block.language in RUN and not block.not_run for block in blocks(page))


@pytest.mark.fast
def test_every_block_is_run_or_says_why_not() -> None:
    silent = [
        f"{block} is {block.language or 'plain text'}"
        for block in all_blocks()
        if not block.not_run and block.language not in RUN | READ.keys() | COMPILED | PLAIN
    ]
    assert not silent, f"blocks in languages that nothing runs: {silent}"
    unexplained = [str(block) for block in all_blocks() if block.note.startswith("not run") and len(block.not_run) < 10]
    assert not unexplained, f"blocks that are not run without a reason: {unexplained}"


@pytest.mark.fast
@pytest.mark.parametrize("block", [block for block in all_blocks() if block.language in READ], ids=str)
def test_data_can_be_read(block: Block) -> None:
    for line in [block.text] if block.note != "lines" else block.text.splitlines():
        READ[block.language](line)


class Page:
    """Runs the blocks of a page."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._stack = stack
        self._folder = folder / "page"
        self._data = folder / "server"
        self._folder.mkdir()
        self._data.mkdir()
        (self._folder / ".venv").symlink_to(sys.prefix)
        self._environment = {
            **os.environ,
            "PATH": f"{Path(sys.prefix, 'bin')}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "VINF_SOURCE": str(ROOT),
        }
        self._address = ""

    def run(self, block: Block) -> None:
        text = block.text
        if block.note == "serves":
            command = text.split()
            assert command[:2] == [".venv/bin/vinf", "serve"], f"{block} starts no server"
            self._address = self._stack.enter_context(Server(self._data, *command[2:])).address
            return
        if not self._address:
            from vinf_client.testing import FakeServer

            self._address = self._stack.enter_context(FakeServer()).address
        text = text.replace("127.0.0.1:50051", self._address)
        command = (
            ["bash", "-euo", "pipefail", "-c"] if block.language == "sh" else [sys.executable, "-W", "error", "-c"]
        )
        done = subprocess.run(
            [*command, text],
            cwd=self._folder,
            env={**self._environment, "VINF_SERVER": self._address},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{block} exits with {done.returncode}:\n{text}\n{done.stdout}\n{done.stderr}"


@pytest.fixture
def page_runner(tmp_path: Path) -> Iterator[Page]:
    with ExitStack() as stack:
        yield Page(tmp_path, stack)


@pytest.mark.process
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", [page for page in PAGES if page.exists() and runs(page)], ids=lambda page: page.name)
def test_blocks_run(page: Path, page_runner: Page) -> None:
    for block in blocks(page):
        if block.language in RUN and not block.not_run:
            page_runner.run(block)
