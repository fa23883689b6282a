"""Which of its addresses and interfaces a host shows to another one."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from urllib.parse import unquote

import psutil


def address_towards(host: str) -> str:
    """The address of this machine that packets to a host carry; OSError when there is no way to it."""
    family, kind, protocol, _, target = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(target)  # sends nothing: only the route is looked up
        return str(probe.getsockname()[0])


def interface_of(address: str) -> str | None:
    """The interface that has this address, or a network that contains it; None when there is none."""
    wanted = ipaddress.ip_address(address)
    for name, entries in psutil.net_if_addrs().items():
        for entry in entries:
            if entry.family not in (socket.AF_INET, socket.AF_INET6) or not entry.netmask:
                continue
            own = entry.address.partition("%")[0]
            prefix = bin(int(ipaddress.ip_address(entry.netmask))).count("1")
            if wanted in ipaddress.ip_network(f"{own}/{prefix}", strict=False):
                return name
    return None


def network_environment(address: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Have Gloo and NCCL use the interface of this address, unless the operator has named one."""
    interface = interface_of(address)
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    return {name: interface for name in names if interface is not None and name not in environment}


def free_port(address: str) -> int:
    """A port that nobody listens on; somebody else may take it before it is used."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def host_and_port(host: str, port: int) -> str:
    """Write an address so that both gRPC and torchrun can read it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def peer_host(peer: str) -> str:
    """The IP address in gRPC's name of a peer, or ``unix``."""
    kind, _, rest = peer.partition(":")
    if kind == "unix":
        return "unix"
    return unquote(rest).rpartition(":")[0].strip("[]")
