"""What the client commands share: options, error lines, exit codes, JSON."""

import argparse
import dataclasses
import json
import os
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypedDict

from vinf_client._access import Access, resolve
from vinf_client._channel import check_target
from vinf_client._config import DEFAULT_SERVER
from vinf_client._config import server_of as configured_server
from vinf_client._errors import (
    AuthenticationError,
    ClientLimitError,
    DiskFullError,
    FrameDamagedError,
    FrameEvictedError,
    GenerationCancelledError,
    GenerationFailedError,
    InvalidRequestError,
    LocalServerError,
    ModelNotFoundError,
    NotFoundError,
    OutputError,
    ProtocolError,
    QueueFullError,
    ServerNotReadyError,
    TransportError,
    VinfError,
    Violation,
    WrongStateError,
)
from vinf_client._translate import NOT_GRPC
from vinf_client.cli.exit_codes import EXIT_CODES_HELP, EXIT_INTERRUPTED, EXIT_NOT_ENDED, EXIT_USAGE

if TYPE_CHECKING:
    from vinf_client._client import Client

_HELP_WIDTH = 100  # characters a line of a description

# The first class that fits decides.
_EXIT_CODES: tuple[tuple[type[VinfError], int], ...] = (
    (InvalidRequestError, 2),
    (NotFoundError, 2),
    (AuthenticationError, 2),
    (OutputError, 2),
    (FrameEvictedError, 2),
    (FrameDamagedError, 4),
    (TransportError, 3),
    (LocalServerError, 3),
    (ProtocolError, 3),
    (GenerationFailedError, 4),
    (GenerationCancelledError, 4),
    (ServerNotReadyError, 5),
    (QueueFullError, 5),
    (ClientLimitError, 5),
    (DiskFullError, 5),
    (WrongStateError, EXIT_NOT_ENDED),
    (VinfError, 1),
)


class MistakesError(InvalidRequestError):
    """Several errors that are told at once."""

    def __init__(self, errors: Sequence[VinfError]) -> None:
        super().__init__("; ".join(map(str, errors)))
        self.errors = tuple(errors)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def __init__(
        self,
        command: str,
        description: str,
        *,
        examples: str,
        exit_codes: str = EXIT_CODES_HELP,
        usage_code: int = EXIT_USAGE,
    ) -> None:
        """Describe a command.

        Args:
            command: its name.
            description: what it does, in a line or two.
            examples: command lines that work, one a line.
            exit_codes: what its exit codes mean.
            usage_code: the one for arguments that cannot work.
        """
        lines = "\n".join(f"  {line.strip()}" for line in examples.strip().splitlines())
        super().__init__(
            prog=f"vinf {command}",
            description=textwrap.fill(description, _HELP_WIDTH),
            epilog=f"examples:\n{lines}\n\n{exit_codes}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self._usage_code = usage_code

    def error(self, message: str) -> NoReturn:
        text = message.removeprefix("argument ")
        print(f"{self.prog}: {text} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(self._usage_code)

    def add_server_option(self, group: argparse._ArgumentGroup | None = None) -> None:
        """Add --server and what a connection to it needs; `client_of` fills in the defaults."""
        add = (group or self).add_argument
        add("--server", metavar="HOST:PORT", help=f"server to talk to (default: $VINF_SERVER or {DEFAULT_SERVER})")
        add("--token-file", metavar="FILE", help="file with your token (default: the token in $VINF_TOKEN)")
        add("--tls", action="store_true", default=None, help="encrypt, trusting the system's authorities ($VINF_TLS=1)")
        add("--tls-ca", metavar="FILE", help="encrypt, trusting these authorities, PEM (default: $VINF_TLS_CA)")
        add("--tls-cert", metavar="FILE", help="your certificate, PEM (default: $VINF_TLS_CERT)")
        add("--tls-key", metavar="FILE", help="its private key, PEM (default: $VINF_TLS_KEY)")
        add("--insecure", action="store_true", help="send the token to another machine without encryption")

    def add_json_option(self, text: str) -> None:
        """Add --json."""
        self.add_argument("--json", action="store_true", help=text)


def server_of(arguments: argparse.Namespace) -> str:
    """Return the address to talk to: the option, else of the environment, of the settings, else this machine.

    Raises:
        ConfigError: the settings cannot be used.
    """
    return configured_server(arguments.server, os.environ)


def client_of(arguments: argparse.Namespace, *, resume_attempts: int | None = None) -> "Client":
    """Return a client of the server, with the access, that the options of `Parser.add_server_option` describe.

    Args:
        arguments: as they were parsed.
        resume_attempts: how often in a row a broken stream is opened again; None: as often as the client does.

    Raises:
        InvalidRequestError: one of them cannot work.
    """
    # Imported late: it loads numpy, and some commands need no client.
    from vinf_client._client import RESUME_ATTEMPTS, Client

    attempts = RESUME_ATTEMPTS if resume_attempts is None else resume_attempts
    return Client(arguments.server, **_access_arguments(arguments), resume_attempts=attempts)


def reached_by(arguments: argparse.Namespace) -> tuple[str, Access]:
    """Return the checked address and the access that `client_of` connects with.

    Raises:
        InvalidRequestError: the address is none, or the token's file cannot be read.
    """
    server, access = resolve(arguments.server, Access(**_access_arguments(arguments)), os.environ)
    return check_target(server, access.sources["server"]), access


class _AccessArguments(TypedDict):
    token: str | None
    tls: bool | None
    tls_ca: str | None
    tls_cert: str | None
    tls_key: str | None
    insecure: bool


def _access_arguments(arguments: argparse.Namespace) -> _AccessArguments:
    return _AccessArguments(
        token=None if arguments.token_file is None else _read_token(arguments.token_file),
        tls=arguments.tls,
        tls_ca=arguments.tls_ca,
        tls_cert=arguments.tls_cert,
        tls_key=arguments.tls_key,
        insecure=arguments.insecure,
    )


def _read_token(path: str) -> str:
    try:
        token = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "it is not a text in UTF-8"
        raise InvalidRequestError.of([Violation("token_file", f"{path} cannot be read: {problem}")]) from error
    if not token:
        raise InvalidRequestError.of([Violation("token_file", f"{path} is empty")])
    return token


def run(prog: str, body: Callable[[], int | None], *, names: Mapping[str, str] | None = None) -> int:
    """Run a command; return its exit code, with one clear line on standard error when it failed.

    Args:
        prog: the command's name, which begins the line.
        body: does the work.
        names: what the command's user calls an argument of the client, where that is not the option of its name.
    """
    try:
        return body() or 0
    except VinfError as error:
        print_error(prog, error, names=names)
        return exit_code(error)
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def exit_code(error: VinfError) -> int:
    """Return the exit code of an error's class."""
    return next(code for kind, code in _EXIT_CODES if isinstance(error, kind))


def print_error(prog: str, error: VinfError, *, names: Mapping[str, str] | None = None) -> None:
    """Say what is wrong: one line, or one a violation when there are several; then what was noted on the error."""
    lines = _error_lines(error, names or {})
    if len(lines) == 1:
        print(f"{prog}: {lines[0]}", file=sys.stderr)
    else:
        print(f"{prog}: {len(lines)} things to mend:", *(f"  {line}" for line in lines), sep="\n", file=sys.stderr)
    for note in getattr(error, "__notes__", ()):
        print(f"{prog}: {note}", file=sys.stderr)


def _error_lines(error: VinfError, names: Mapping[str, str]) -> list[str]:
    if isinstance(error, MistakesError):
        return [line for entry in error.errors for line in _error_lines(entry, names)]
    if isinstance(error, InvalidRequestError) and error.violations:
        return [f"{_option_name(violation, names)}: {violation.description}" for violation in error.violations]
    if isinstance(error, ModelNotFoundError):
        return [f"--model: {error}"]
    if isinstance(error, TransportError) and not error.reason and NOT_GRPC not in str(error):
        return [f"{error}; is it running? (vinf serve starts one)"]
    return [str(error)]


def print_json(value: object) -> None:
    """Print one line of JSON on standard output."""
    print(json.dumps(as_json(value), ensure_ascii=False), flush=True)


def as_json(value: Any) -> Any:
    """Turn the values of this package into what `json` knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    match value:
        case datetime():
            return value.isoformat()
        case os.PathLike():
            return os.fspath(value)
        case Fraction():
            return value.numerator if value.denominator == 1 else str(value)
        case float():
            # A float32 of the wire, 7.5 or 0.1, shall not read 0.10000000149011612.
            return round(value, 6)
        case dict():
            return {key: as_json(entry) for key, entry in value.items()}
        case list() | tuple():
            return [as_json(entry) for entry in value]
        case _:
            return value


def _option_name(violation: Violation, names: Mapping[str, str]) -> str:
    if violation.source:
        return violation.source
    name = violation.argument
    if name in names:
        return names[name]
    if name.startswith("segments"):
        return f"story: {name}"
    if name == "prompt":
        return "PROMPT"
    if name.startswith("labels"):
        return "--label"
    if name == "token":
        return "--token-file"
    return f"--{name.replace('_', '-')}" if "." not in name else name
