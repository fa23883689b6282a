"""Writes deploy/grafana/vinf.json; with --check only says whether it is up to date."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from deploy.grafana.dashboard.build import as_json

PATH = Path(__file__).parents[1] / "vinf.json"


def main() -> int:
    """Write the file, or compare it."""
    parser = argparse.ArgumentParser(prog="python -m deploy.grafana.dashboard", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when the file is out of date")
    arguments = parser.parse_args()
    text = as_json()
    if arguments.check:
        if not PATH.exists() or PATH.read_text() != text:
            print(f"{PATH.name} is not what the code makes: make dashboard", file=sys.stderr)
            return 1
        return 0
    PATH.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
