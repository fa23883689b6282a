"""The flags of a group on several hosts, for the first host (`vinf serve`) and for the others (`vinf worker`)."""

from __future__ import annotations

import argparse
import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from vinf_server.flag_values import Address, ConfigError
from vinf_server.link_security import LinkSecurity, TlsFiles, read_token

MAX_HOSTS = 64
"""Far above any group that was ever tried; catches a typing mistake."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HostsConfig:
    """What the front must know to take other hosts in; raises `ConfigError` for what cannot work."""

    count: int
    """Hosts of the group, the front's own included."""

    link: Address
    """Where the others join."""

    security: LinkSecurity = field(default_factory=LinkSecurity)
    """Without a token and without TLS, the front makes a token up."""

    insecure: bool = False
    """Allows a token in plain text beyond this machine."""

    local_addr: str | None = None
    """Address of this host that the others' ranks connect to; None: the one that reaches them."""

    def __post_init__(self) -> None:
        if not 2 <= self.count <= MAX_HOSTS:
            raise ConfigError("--nnodes", f"{self.count} is not in [1, {MAX_HOSTS}]")
        check_encrypted(self.link, self.security, insecure=self.insecure, flag="--link")
        check_local_addr(self.local_addr)


def add_serve_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of the first host."""
    group = parser.add_argument_group("several hosts")
    group.add_argument(
        "--nnodes", type=int, default=1, metavar="N", help="hosts in the group, this one included; the others join"
    )
    group.add_argument(
        "--link", default=None, metavar="HOST:PORT", help="where the other hosts join, an address that they can reach"
    )
    add_security_flags(group, "made up and kept in the data directory where neither this nor --link-tls-* is given")


def add_security_flags(group: argparse._ArgumentGroup, token_note: str) -> None:
    """Flags that both sides have."""
    group.add_argument(
        "--join-token-file",
        type=Path,
        default=None,
        metavar="FILE",
        help=f"secret that hosts join with, mode 0600; {token_note}",
    )
    names = {"cert": "certificate of this host", "key": "its private key", "ca": "signs the other hosts' certificates"}
    for name, meaning in names.items():
        group.add_argument(
            f"--link-tls-{name}", type=Path, default=None, metavar="PEM", help=f"mutual TLS between hosts: {meaning}"
        )
    group.add_argument(
        "--local-addr",
        default=None,
        metavar="IP",
        help="address of this host for the ranks of the others; its network interface carries what the ranks exchange "
        "(default: the one that reaches the other hosts)",
    )


def read_serve_flags(arguments: argparse.Namespace) -> HostsConfig | None:
    """None for a group on one host."""
    if arguments.nnodes == 1:
        for flag in ("link", "join_token_file", "link_tls_cert", "link_tls_key", "link_tls_ca", "local_addr"):
            if getattr(arguments, flag) is not None:
                raise ConfigError(f"--{flag.replace('_', '-')}", "is for several hosts; add --nnodes N")
        return None
    if arguments.link is None:
        raise ConfigError("--nnodes", f"{arguments.nnodes} hosts need --link HOST:PORT, where the others join")
    return HostsConfig(
        count=arguments.nnodes,
        link=Address.parse(arguments.link, flag="--link"),
        security=read_security_flags(arguments),
        insecure=arguments.insecure,
        local_addr=arguments.local_addr,
    )


def read_security_flags(arguments: argparse.Namespace) -> LinkSecurity:
    """Token and certificates, looked at now so that a mistake is told at once."""
    paths = {name: getattr(arguments, f"link_tls_{name}") for name in ("cert", "key", "ca")}
    missing = [name for name, path in paths.items() if path is None]
    if missing and len(missing) < len(paths):
        raise ConfigError(f"--link-tls-{missing[0]}", "is missing: mutual TLS takes --link-tls-cert, -key and -ca")
    tls = None if missing else TlsFiles(*(path.expanduser().absolute() for path in paths.values()))
    token_file = arguments.join_token_file
    security = LinkSecurity(token_file.expanduser().absolute() if token_file is not None else None, tls)
    if security.token_file is not None:
        read_token(security.token_file)
    security.channel_credentials()
    return security


def check_encrypted(address: Address, security: LinkSecurity, *, insecure: bool, flag: str) -> None:
    """Refuse a join token in plain text where others may listen."""
    if not address.is_loopback and security.tls is None and not insecure:
        raise ConfigError(
            flag,
            f"{address} is beyond this machine, and without --link-tls-cert, -key and -ca the join token and all "
            "frames would travel in plain text; add --insecure to accept that",
        )


def check_local_addr(text: str | None) -> None:
    """Refuse what is no IP address of one host."""
    if text is None:
        return
    try:
        unspecified = ipaddress.ip_address(text).is_unspecified
    except ValueError:
        raise ConfigError("--local-addr", f"{text!r} is not an IP address") from None
    if unspecified:
        raise ConfigError("--local-addr", f"{text} names no host; give the address that the other hosts can reach")
