"""The dispatcher: one command, each subcommand imported only when it is called.

Client commands live here. All others are entry points of the group `vinf.commands`, so that a client install stays
small and `vinf serve` on a server loads no client.
"""

import os
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from importlib.util import find_spec

from vinf_client.cli.exit_codes import EXIT_CODES_HELP, EXIT_PIPE, EXIT_USAGE

Main = Callable[[list[str] | None], int]

_GROUP = "vinf.commands"
_GROUPS = {
    "make videos": {
        "generate": ("vinf_client.cli.generate", "make a video and write it to a file"),
        "batch": ("vinf_client.cli.batch", "make the videos of a list of prompts, for a data set"),
    },
    "follow and fetch them": {
        "list": ("vinf_client.cli.listing", "list a server's generations"),
        "watch": ("vinf_client.cli.watch", "follow a generation to its end"),
        "download": ("vinf_client.cli.download", "write the frames of a generation to a file"),
        "trace": ("vinf_client.cli.trace", "write what happened when while a generation was made, for Perfetto"),
        "eval": ("vinf_client.cli.eval", "judge videos: seams between clips, drift, flicker, motion, repetition"),
        "cancel": ("vinf_client.cli.cancel", "cancel generations"),
        "delete": ("vinf_client.cli.delete", "delete generations that have ended, and their frames"),
    },
    "look at a server": {
        "info": ("vinf_client.cli.info", "show a server's models, limits and ranks"),
        "top": ("vinf_client.cli.top", "show what a server does, live"),
        "health": ("vinf_client.cli.health", "ask whether a server is ready, with an exit code for probes"),
        "doctor": ("vinf_client.cli.doctor", "find out what is wrong between here and a server"),
    },
    "set up": {
        "token": ("vinf_client.cli.token", "make a token for a client of a server"),
        "completion": ("vinf_client.cli.completion", "print a script that completes commands and options in a shell"),
    },
}
OWN = {name: entry for group in _GROUPS.values() for name, entry in group.items()}
"""The commands of this package: their module, and their line in --help."""

# What other packages may bring: the line in --help and the extra that holds what they need.
_OTHERS = {
    "serve": ("start a server: the front and its ranks", "server"),
    "worker": ("add this host's devices to a server", "server"),
    "models": ("list the models there are, and which are here", "server"),
    "bench": ("measure the engine beside stock diffusers", "server"),
}
_OUR_PACKAGES = ("vinf", "vinf_core", "vinf_server", "vinf_client")


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    warnings.showwarning = _show_warning
    try:
        code = _dispatch(sys.argv[1:] if argv is None else list(argv))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read our output has gone; keep the interpreter from complaining when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """In one line, as errors are."""
    print(f"vinf: {message}", file=sys.stderr)


def _dispatch(arguments: list[str]) -> int:
    command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if command in ("-h", "--help", "help"):
        print(_help())
        return 0
    if command in ("-V", "--version"):
        print(f"vinf {_version()}")
        return 0
    if command in OWN:
        # gRPC would write about each connection that a restarting server closes; we say it in our own words.
        os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
        return _run(command, "client", lambda: import_module(OWN[command][0]).main, rest)
    others = entries()
    if command in others:
        extra = _OTHERS.get(command, ("", "server"))[1]
        return _run(command, extra, others[command].load, rest)
    if command in _OTHERS:
        print(f"vinf {command}: not part of this installation", file=sys.stderr)
    elif command:
        print(f"vinf: there is no command {command!r}; vinf --help lists them", file=sys.stderr)
    else:
        print(_help(), file=sys.stderr)
    return EXIT_USAGE


def _run(command: str, extra: str, load: Callable[[], Main], arguments: list[str]) -> int:
    try:
        return load()(arguments)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in _OUR_PACKAGES and find_spec(missing) is not None:
            raise  # a mistake of ours, not a missing extra
        print(
            f"vinf {command} needs the {extra} extra: pip install 'vinf[{extra}]' ({missing} is missing)",
            file=sys.stderr,
        )
        return EXIT_USAGE


def entries() -> dict[str, EntryPoint]:
    """Find the commands of other packages."""
    return {entry.name: entry for entry in entry_points(group=_GROUP)}


def _help() -> str:
    others = entries()
    width = max(len(name) for name in (*OWN, *others))
    lines = [
        "usage: vinf COMMAND [options]",
        "",
        "Long video from a diffusion model, generated by a group of ranks working as one.",
    ]
    for title, group in _GROUPS.items():
        lines += ["", f"{title}:", *(f"  {name:<{width}}  {text}" for name, (_, text) in group.items())]
    if others:
        lines += ["", "run a server:"]
        known = [name for name in _OTHERS if name in others]
        for name in (*known, *sorted(set(others) - set(known))):
            lines.append(f"  {name:<{width}}  {_OTHERS.get(name, ('', ''))[0]}".rstrip())
    lines += ["", EXIT_CODES_HELP]
    lines += ["", "vinf COMMAND --help shows the options of a command and examples, vinf --version the version."]
    return "\n".join(lines)


def _version() -> str:
    try:
        return version("vinf")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"
