"""Certificates made for a test, by the `openssl` command."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, both PEM."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates with a key of its own."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder / name
        self._folder.mkdir(parents=True)
        self.certificate = self._folder / "ca.crt"
        self._key = self._folder / "ca.key"
        _openssl("req", "-x509", *_NEW_KEY, "-keyout", self._key, "-out", self.certificate, "-subj", f"/CN={name}")

    def sign(
        self, file_name: str, *, subject: str = "/CN=localhost", alternative: str = "", is_expired: bool = False
    ) -> Pair:
        """Make a key and a certificate.

        Args:
            file_name: without a suffix.
            subject: as openssl takes it; "/" for an empty one.
            alternative: such as "DNS:localhost,IP:127.0.0.1".
            is_expired: it ended a day ago.
        """
        pair = Pair(self._folder / f"{file_name}.crt", self._folder / f"{file_name}.key")
        request, extensions = self._folder / f"{file_name}.csr", self._folder / f"{file_name}.ext"
        extensions.write_text(f"subjectAltName={alternative}\n" if alternative else "")
        _openssl("req", "-new", *_NEW_KEY, "-keyout", pair.key, "-out", request, "-subj", subject)
        _openssl(
            *("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial"),
            *("-days", "-1" if is_expired else "2", "-extfile", extensions, "-out", pair.certificate),
        )
        return pair

    def server(self, file_name: str = "server") -> Pair:
        """A certificate for this machine."""
        return self.sign(file_name, alternative="DNS:localhost,IP:127.0.0.1")


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=30)
