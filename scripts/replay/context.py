"""The files that a build sees: the repository without what .dockerignore leaves out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


class Ignored:
    """The rules of a .dockerignore file; the last one that fits a path decides."""

    def __init__(self, text: str) -> None:
        lines = [line.strip() for line in text.splitlines()]
        rules = [line for line in lines if line and not line.startswith("#")]
        self._rules = [(_pattern(rule.removeprefix("!")), rule.startswith("!")) for rule in rules]

    def __call__(self, path: PurePosixPath) -> bool:
        """True when a file is left out."""
        ignored = False
        names = [path.as_posix(), *(parent.as_posix() for parent in path.parents[:-1])]
        for pattern, is_exception in self._rules:
            if any(pattern.fullmatch(name) for name in names):
                ignored = not is_exception
        return ignored


def _pattern(rule: str) -> re.Pattern[str]:
    text = ""
    for part in re.findall(r"\*\*/|\*\*|\*|\?|[^*?]+", rule.strip("/")):
        text += {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(part) or re.escape(part)
    return re.compile(text)


def context_files(root: Path) -> Iterator[PurePosixPath]:
    """Yield the files of a build's context, relative to its root."""
    ignored = Ignored((root / ".dockerignore").read_text())
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in (".git", ".venv"))  # large, and never let in
        for name in sorted(names):
            path = PurePosixPath(Path(folder, name).relative_to(root).as_posix())
            if not ignored(path):
                yield path
