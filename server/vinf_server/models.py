"""`vinf models`: what can be served, and what of it is on this machine."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass

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
        listed = [Listed.of(card) for card in cards.values()]
        print(json.dumps([entry.as_json() for entry in listed], indent=2) if arguments.json else _table(listed))
        return 0
    if arguments.name not in cards:
        return _fail(f"{arguments.name!r} is not one of {', '.join(sorted(cards))}")
    entry = Listed.of(cards[arguments.name])
    print(json.dumps(entry.as_json(), indent=2) if arguments.json else _details(entry))
    return 0 if entry.where else EXIT_FAILED


@dataclass(frozen=True, slots=True)
class Listed:
    """A model and what there is of it on this machine."""

    card: ModelCard
    where: str
    """The folder of its denoiser; empty: it is not here."""
    problem: str
    """Why it is not; empty: it is here."""

    @classmethod
    def of(cls, card: ModelCard) -> Listed:
        """Look for a model's files, on this machine alone."""
        try:
            return cls(card, where=str(locate(ModelSource(model=card.name, offline=True)).denoiser), problem="")
        except ModelNotFoundError as error:
            return cls(card, where="", problem=str(error).removeprefix("model: "))

    @property
    def denoiser_bytes(self) -> int:
        """Of its weights in half precision."""
        return self.card.parameter_count * _HALF_PRECISION_BYTES

    def as_json(self) -> dict[str, object]:
        """Everything, as JSON has it."""
        return {
            **asdict(self.card),
            "denoiser_bytes": self.denoiser_bytes,
            "is_here": bool(self.where),
            "where": self.where,
            "problem": self.problem,
        }


def _table(listed: list[Listed]) -> str:
    rows = [("name", "parameters", "bf16", "native size", "frames", "weights here", "licence")]
    for entry in listed:
        card = entry.card
        rows.append(
            (
                card.name,
                _short(card.parameter_count),
                f"{_short(entry.denoiser_bytes)}B",
                f"{card.width} x {card.height}",
                f"{card.frame_count} at {card.frame_rate}/s",
                "yes" if entry.where else "no",
                card.licence,
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _details(entry: Listed) -> str:
    card = entry.card
    lines = [
        f"{card.name}: {card.title}",
        f"  licence        {card.licence}",
        f"  denoiser       {card.parameter_count:,} parameters, {_short(entry.denoiser_bytes)}B in half precision",
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
    lines.append(f"  here           {entry.where or f'no: {entry.problem}'}")
    return "\n".join(lines)


def _short(number: float) -> str:
    """A large number in three digits: 1413284420 as 1.41 G."""
    for unit in ("", "k", "M"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} G"


def _fail(message: str) -> int:
    print(f"vinf models: error: {message}", file=sys.stderr)
    return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main())
