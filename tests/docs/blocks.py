"""Code blocks of the documents, as they stand there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_BLOCK = re.compile(
    r"(?:^<!-- (?P<note>[^\n]+?) -->\n)?^```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block.

    A comment on the line before may say how it is tested:

    * ``not run: <reason>``: not at all;
    * ``serves``: in the background, as the server of all blocks behind it on the page;
    * ``continues``: after the block of the same language before it, as one program.
    """

    page: Path
    line: int
    language: str
    text: str
    note: str

    @property
    def not_run(self) -> str:
        """Why it is not run; empty when it is."""
        return self.note.removeprefix("not run:").strip() if self.note.startswith("not run:") else ""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page in order, those that continue another one with it in front."""
    text = page.read_text()
    before: dict[str, str] = {}
    for match in _BLOCK.finditer(text):
        language, body, note = match["language"], match["text"], match["note"] or ""
        if note == "continues":
            body = before[language] + body
        before[language] = body
        yield Block(page, text.count("\n", 0, match.start("language")) + 1, language, body, note)


def all_blocks() -> list[Block]:
    """Return the blocks of every page."""
    return [block for page in PAGES if page.exists() for block in blocks(page)]
