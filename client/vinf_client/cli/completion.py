"""`vinf completion`: a script that completes commands and options in a shell.

shtab reads the parsers themselves, so nothing has to be kept in step by hand, and the shell starts no Python when Tab
is pressed.
"""

import argparse
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import cast

import shtab

from vinf_client.cli.common import Parser
from vinf_client.cli.dispatch import OWN, entries

_SHELLS = ("bash", "zsh", "fish")
_FILES = ("FILE", "FILE.json", "PROMPTS", "OUT", "PATH.png")
_FOLDERS = ("DIR",)
_EXAMPLES = """
vinf completion bash > ~/.local/share/bash-completion/completions/vinf
vinf completion zsh > ~/.zfunc/_vinf    # with fpath=(~/.zfunc $fpath) before compinit in ~/.zshrc
vinf completion fish > ~/.config/fish/completions/vinf.fish
"""


def build_parser() -> Parser:
    """Describe the command line."""
    parser = Parser(
        "completion", "Print a script that completes commands and options of vinf in a shell.", examples=_EXAMPLES
    )
    parser.add_argument("shell", metavar="SHELL", choices=_SHELLS, help=", ".join(_SHELLS))
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    arguments = build_parser().parse_args(argv)
    print(shtab.complete(_whole_parser(), shell=arguments.shell))
    return 0


def _whole_parser() -> argparse.ArgumentParser:
    """Put the parsers of all commands under one."""
    builders: dict[str, Callable[[], argparse.ArgumentParser]] = {}
    texts: dict[str, str] = {}
    for name, (module, text) in OWN.items():
        builders[name], texts[name] = import_module(module).build_parser, text
    for name, entry in entries().items():
        with suppress(ImportError):  # what it needs may not be installed
            module_of = import_module(entry.module)
            builders[name], texts[name] = getattr(module_of, "build_parser", argparse.ArgumentParser), ""
    root = argparse.ArgumentParser(prog="vinf")
    root.add_argument("--version", action="store_true", help="show the version")
    # argparse makes a subparser by calling a class with its prog; ours are made already.
    commands = root.add_subparsers(
        parser_class=cast(
            type[argparse.ArgumentParser], lambda *, prog, **_: _with_paths(builders[prog.rpartition(" ")[2]]())
        )
    )
    for name, text in texts.items():
        commands.add_parser(name, help=text)
    return root


def _with_paths(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Have options whose value is a file or a folder complete to one; their metavar says so."""
    for action in parser._actions:  # argparse has no other way to see them
        if action.metavar in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.metavar in _FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    return parser
