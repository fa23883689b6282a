"""What stands between the network and the services: certificates and tokens."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from vinf_server.config import ServeConfig
from vinf_server.front.rpc.tls import CertificateFiles
from vinf_server.front.rpc.tokens import TokenFile

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Doors:
    """Each is None where it is not asked for."""

    certificates: CertificateFiles | None = None
    tokens: TokenFile | None = None

    @classmethod
    def open(cls, config: ServeConfig) -> Doors:
        """Read the files that the configuration names; raises `ConfigError` for what cannot work."""
        certificates = None
        if config.tls_cert is not None and config.tls_key is not None:
            certificates = CertificateFiles(config.tls_cert, config.tls_key, config.tls_client_ca)
        tokens = TokenFile(config.tokens) if config.tokens is not None else None
        for address in (config.listen, config.web):
            if address is None or address.is_loopback or config.tls_client_ca is not None or tokens is not None:
                continue
            _log.warning(
                "everybody who can reach %s may use this server: neither --tokens nor --tls-client-ca is given", address
            )
        return cls(certificates, tokens)


OPEN_DOORS = Doors()
"""No encryption, and nobody is asked who they are."""
