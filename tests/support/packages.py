"""Packages of other people's, as an installer leaves them behind."""

from __future__ import annotations

from pathlib import Path


def install(site: Path, name: str, version: str, groups: dict[str, dict[str, str]]) -> None:
    """What an installer leaves behind for `importlib.metadata`."""
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [
        line
        for group, entries in groups.items()
        for line in (f"[{group}]", *(f"{k} = {v}" for k, v in entries.items()))
    ]
    (folder / "entry_points.txt").write_text("\n".join(lines) + "\n")
