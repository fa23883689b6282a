"""The clients' tokens: a file of hashes, read anew when it changes.

The file holds SHA-256 without salt, which is enough for tokens that are random, as `vinf token` makes them, and for no
others. Who may write the file may add clients, so one that others may write is refused.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
import time
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from vinf_server.flag_values import ConfigError
from vinf_server.front.errors import UnauthenticatedError
from vinf_server.front.rpc.file_stamp import Stamp, stamp

_log = logging.getLogger(__name__)

LOOK_INTERVAL_S = 1.0
"""A change is noticed within so long."""

_FLAG = "--tokens"
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_HASH = re.compile(r"[0-9a-f]{64}")
_WRITABLE_BY_OTHERS = 0o022
_ONE_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: a token that a client may show."""

    name: str
    digest: bytes
    expires_s: float | None
    """Wall clock; None: never."""


class TokenFile:
    """Knows every token by its hash. Runs on the event loop; the disk is read in threads after the start."""

    def __init__(self, path: Path, *, look_interval_s: float = LOOK_INTERVAL_S) -> None:
        """Read the file; raises `ConfigError` when it cannot be used."""
        self._path = path
        self._look_interval_s = look_interval_s
        self._seen: Stamp | str = ""
        self._entries: tuple[Entry, ...] = ()
        self._looked_s = time.monotonic()
        self._seen, self._entries = self._look(), _read(path)

    async def client_of(self, token: str) -> str:
        """Return the name of the client whose token this is; raises `UnauthenticatedError`."""
        if time.monotonic() - self._looked_s >= self._look_interval_s:
            self._looked_s = time.monotonic()
            await asyncio.to_thread(self._reread)
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        found: Entry | None = None
        for entry in self._entries:  # all of them: the time it takes says nothing about which
            if hmac.compare_digest(entry.digest, digest):
                found = entry
        if found is None:
            raise UnauthenticatedError("the token is not known here", reason="TOKEN_INVALID")
        if found.expires_s is not None and time.time() >= found.expires_s:
            raise UnauthenticatedError("the token has expired", reason="TOKEN_EXPIRED")
        return found.name

    def _reread(self) -> None:
        seen = self._look()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._entries = _read(self._path)
        except ConfigError as error:
            _log.error("%s; the tokens in use stay", error)
            return
        _log.info("%d tokens were read anew from %s", len(self._entries), self._path)

    def _look(self) -> Stamp | str:
        try:
            return stamp(self._path)
        except OSError as error:
            return str(error)


def _read(path: Path) -> tuple[Entry, ...]:
    """Read all lines; a mistake names the line, never what it holds."""
    try:
        if path.stat().st_mode & _WRITABLE_BY_OTHERS:
            raise ConfigError(_FLAG, f"{path} can be written by others, who could let anybody in; chmod go-w it")
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(_FLAG, f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(_FLAG, f"{path} is not a text in UTF-8") from error
    entries: dict[bytes, Entry] = {}
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        entry = _entry(words, where=f"{path}, line {number}")
        if entry.digest in entries:
            raise ConfigError(_FLAG, f"{path}, line {number}: the same token as an earlier line")
        entries[entry.digest] = entry
    return tuple(entries.values())


def _entry(words: list[str], *, where: str) -> Entry:
    if len(words) not in (2, 3):
        raise ConfigError(_FLAG, f"{where}: has {len(words)} words; must be NAME SHA256 [EXPIRY]")
    if not _NAME.fullmatch(words[0]):
        raise ConfigError(_FLAG, f"{where}: the name is not 1 to 64 characters from [A-Za-z0-9._@-]")
    if not _HASH.fullmatch(words[1]):
        raise ConfigError(_FLAG, f"{where}: the second word is not 64 lower-case hex digits")
    expires_s = _expiry(words[2], where=where) if len(words) == 3 else None
    return Entry(words[0], bytes.fromhex(words[1]), expires_s)


def _expiry(text: str, *, where: str) -> float:
    try:
        if len(text) == len("2027-01-31"):
            # A day is meant to its end.
            last_day = date.fromisoformat(text)
            return (datetime(last_day.year, last_day.month, last_day.day, tzinfo=UTC) + _ONE_DAY).timestamp()
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            _FLAG, f"{where}: the expiry is not an ISO date or time such as 2027-01-31 or 2027-01-31T12:00Z"
        ) from None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
