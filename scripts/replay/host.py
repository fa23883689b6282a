"""What a replay takes from this machine: its tools, and how its pip finds packages."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from scripts.replay.root import Bind

_TOOLS = ("apt-get", "chroot", "debootstrap", "ip", "mount", "nsenter", "setpriv", "umount", "unshare")
_SETTINGS = ("index-url", "extra-index-url", "find-links", "no-index", "trusted-host", "cert", "timeout", "retries")


def missing() -> str:
    """Why nothing can be replayed here; empty when it can."""
    if os.geteuid() != 0:
        return "only root may make a file system of its own"
    absent = [tool for tool in _TOOLS if shutil.which(tool) is None]
    return f"{', '.join(absent)} not installed" if absent else ""


def pip_settings(file: Path | None = None) -> dict[str, list[str]]:
    """Where pip looks for packages: by a pip.conf; without one, by this machine's files and environment."""
    found: dict[str, list[str]] = {}
    for name, values in _read(file) if file is not None else _ask_pip():
        if name in _SETTINGS:
            found.setdefault(name, []).extend(values.split())
    return {name: list(dict.fromkeys(values)) for name, values in found.items()}


def _read(file: Path) -> Iterator[tuple[str, str]]:
    parser = ConfigParser(interpolation=None)
    parser.read_string(file.read_text())
    for section in parser.sections():
        yield from parser.items(section)


def _ask_pip() -> Iterator[tuple[str, str]]:
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        yield key.removeprefix(":env:").rpartition(".")[2], str(ast.literal_eval(value))


def pip_file(settings: dict[str, list[str]]) -> str:
    """Return a pip.conf that says the same."""
    lines = [f"{name} = {' '.join(values)}" for name, values in settings.items()]
    return "\n".join(["[global]", *lines, ""])


def pip_places(settings: dict[str, list[str]]) -> tuple[Bind, ...]:
    """Files and folders of this machine that these settings name, to be seen at the same place inside."""
    found = set()
    for name, values in settings.items():
        for value in values:
            path = Path(unquote(urlsplit(value).path) if value.startswith("file:") else value)
            if not path.is_absolute() or (re.match(r"\w+://", value) and not value.startswith("file:")):
                continue
            # The pages of an index lead to files beside it.
            found.add(path.parent if name.endswith("index-url") else path)
    return tuple(Bind(path, str(path)) for path in sorted(found) if path.exists())
