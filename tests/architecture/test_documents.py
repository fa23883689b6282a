"""What the documents say exists, exists; and the repository speaks of itself alone."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.fast

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]

IMPORT_ROOTS = ("", "server", "client", "gen", "server/vinf_server", "client/vinf_client", "vinf_core")
"""Where a path in backticks may begin: `vinf_server/front` and `front/rpc` both name one folder."""

NOT_OURS = {"__pycache__", "build", "dist", "node_modules", "out"}
"""Folders that tools write; those that begin with a dot are left out as well."""

SUFFIXES = "py|pyi|md|proto|toml|txt|sh|json|yaml|yml|png|safetensors"


@cache
def our_files() -> list[Path]:
    found = []
    for folder, folders, names in os.walk(ROOT):
        # Pruned in place: the walk does not enter what is taken out.
        folders[:] = sorted(
            name
            for name in folders
            if name not in NOT_OURS and not name.endswith(".egg-info") and (not name.startswith(".") or name == ".ci")
        )
        found += [Path(folder, name) for name in sorted(names)]
    return found


def named_paths(text: str) -> Iterator[str]:
    """Everything in backticks that reads like a path of this repository."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    for token in re.findall(r"`([^`\n]+)`", prose):
        is_file = re.fullmatch(rf"[\w.*/-]+\.(?:{SUFFIXES})", token)
        is_folder = re.fullmatch(r"[\w.-]+(?:/[\w.-]+)*/", token)
        if (is_file or is_folder) and token.split("/")[0] not in NOT_OURS and not token.startswith((".venv", "/")):
            yield token


def exists(document: Path, name: str) -> bool:
    """True when a path is there, seen from the document or an import root; a bare name may be anywhere."""
    places = [document.parent, *(ROOT / folder for folder in IMPORT_ROOTS)]
    if any(next(place.glob(name.rstrip("/")), None) for place in places):
        return True
    return "/" not in name.rstrip("/") and any(path.name == name for path in our_files())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_paths_and_links_lead_somewhere(document: Path) -> None:
    text = document.read_text()
    links = re.findall(r"\]\((?!https?://|mailto:|#)([^)#\s]+)(?:#[^)\s]*)?\)", text)
    lost = [link for link in links if not (document.parent / link).exists()]
    lost += [name for name in named_paths(text) if not exists(document, name)]
    assert not lost, f"{document.name} names what does not exist: {sorted(set(lost))}"


def test_the_version_is_the_newest_in_the_changelog() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    headings = re.findall(
        r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d{2}-\d{2}$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert headings, "CHANGELOG.md has no heading such as '## [0.1.0] - 2026-11-21'"
    assert headings[0] == project["version"]


def test_no_file_knows_where_it_was_written() -> None:
    somebodys_disk = re.compile(rf"(?<![\w.$}}>-])/(?:{'|'.join(('work', 'home', 'Users'))})/(?!vinf\b)[\w.]")
    found = []
    for path in our_files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {match[0]}..." for match in somebodys_disk.finditer(text)]
    assert not found, f"absolute paths of somebody's machine: {found}"
