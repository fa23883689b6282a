"""What commands that show pictures share: their option, and which display they show them on."""

import argparse
import sys

from vinf_client.cli.pictures import PictureDisplay
from vinf_client.cli.terminal import choose_graphics
from vinf_client.progress import Display, choose_display

_PREVIEWS = ("auto", "none", "blocks", "kitty", "sixel")


def add_preview_option(group: argparse._ActionsContainer) -> None:
    """Add --preview."""
    group.add_argument(
        "--preview",
        choices=_PREVIEWS,
        default="auto",
        help="show the newest pictures while they are made, as coloured half-blocks or as graphics of kitty or sixel "
        "terminals; auto: what the terminal says it can; never where output is not a terminal (default: %(default)s)",
    )


def preview_display(arguments: argparse.Namespace) -> Display:
    """Pick a display with pictures where there is a terminal that can show them."""
    if not arguments.quiet:
        graphics = choose_graphics(arguments.preview, sys.stderr)
        if graphics is not None:
            return PictureDisplay(sys.stderr, graphics)
    return choose_display(quiet=arguments.quiet)
