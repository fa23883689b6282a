"""`vinf models`: what can be served, and what of it is on this machine."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from vinf_core.errors import ModelNotFoundError
from vinf_core.models.catalogue import ModelCard, catalogue
from vinf_core.models.locate import ModelSource, locate
from vinf_core.types import ImageFrames
from vinf_server.cli import EXIT_FAILED, EXIT_USAGE, CommandParser

_HALF_PRECISION_BYTES = 2

_IMAGE_FRAMES = {
    ImageFrames.NONE: "none taken",
    ImageFrames.FIRST: "taken for the first frame",
    ImageFrames.FIRST_AND_LAST: "taken for the first and the last frame",
    ImageFrames.ANY: "taken for any frame",
}

EXAMPLES = """examples:
  vinf models                      all of them
  vinf models videocrafter2        one in full: options, where it is published, how to get it
  vinf models --json | jq -r '.[] | select(.is_here) | .name'

exit codes: 0 · 1 the model that was named is not on this machine · 2 a mistake in the arguments"""


def build_parser() -> argparse.ArgumentParser:
    """Every flag."""
    parser = CommandParser(
        prog="vinf models",
        description="List the models that vinf serve can load, and whether their weights are on this machine.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("name", nargs="?", help="show this one in full")
    parser.add_argument("--json", action="store_true", help="print JSON: a list, or one object for a name")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Print the list or one model; returns the exit code."""
    arguments = build_parser().parse_args(argv)
    try:
        cards = catalogue()
    except ModelNotFoundError as error:
        return _fail(str(error))
    if arguments.name is None:
        entries = [_entry(card) for card in cards.values()]
        print(json.dumps(entries, indent=2) if arguments.json else "\n".join(_table(entries)))
        return 0
    if arguments.name not in cards:
        return _fail(f"{arguments.name!r} is not one of {', '.join(sorted(cards))}")
    entry = _entry(cards[arguments.name])
    print(json.dumps(entry, indent=2) if arguments.json else "\n".join(_details(entry, cards[arguments.name])))
    return 0 if entry["is_here"] else EXIT_FAILED


def _entry(card: ModelCard) -> dict[str, object]:
    """What is printed of a model, besides what its card says: whether it is here, and where or why not."""
    try:
        files, problem = locate(ModelSource(model=card.name, offline=True)), ""
    except ModelNotFoundError as error:
        files, problem = None, str(error).removeprefix("model: ")
    return {
        **asdict(card),
        "denoiser_bytes": card.parameter_count * _HALF_PRECISION_BYTES,
        "is_here": files is not None,
        "where": "" if files is None else str(files.denoiser),
        "problem": problem,
    }


def _table(entries: list[dict[str, object]]) -> list[str]:
    rows = [("name", "parameters", "bf16", "native size", "frames", "weights here", "licence")]
    rows += [
        (
            str(entry["name"]),
            _short(entry["parameter_count"]),
            f"{_short(entry['denoiser_bytes'])}B",
            f"{entry['width']} x {entry['height']}",
            f"{entry['frame_count']} at {entry['frame_rate']}/s",
            "yes" if entry["is_here"] else "no",
            str(entry["licence"]),
        )
        for entry in entries
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _details(entry: dict[str, object], card: ModelCard) -> list[str]:
    lines = [
        f"{card.name}: {card.title}",
        f"  licence        {card.licence}",
        f"  denoiser       {card.parameter_count:,} parameters, {_short(entry['denoiser_bytes'])}B in half precision",
        f"  trained on     {card.frame_count} frames of {card.width} x {card.height}, {card.frame_rate} a second",
    ]
    lines.append(f"  images         {_IMAGE_FRAMES[card.image_frames]}")
    if card.hub_id:
        lines.append(f"  published as   {card.hub_id}" + (f" ({card.revision})" if card.revision else ""))
    if card.base_hub_id:
        lines.append(f"  and, the rest  {card.base_hub_id}")
    lines += [
        f"  option         {option.name}={'|'.join(option.values)} ({option.values[0]} by default): {option.meaning}"
        for option in card.options
    ]
    lines.append(f"  here           {entry['where'] or 'no: ' + str(entry['problem'])}")
    return lines


def _short(value: object) -> str:
    """A large number in three digits: 1413284420 as 1.41 G."""
    number = float(str(value))
    for unit in ("", "k", "M", "G"):
        if number < 1000 or unit == "G":
            return f"{number:.3g} {unit}"
        number /= 1000
    raise AssertionError("the loop returns")


def _fail(message: str) -> int:
    print(f"vinf models: error: {message}", file=sys.stderr)
    return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main())
