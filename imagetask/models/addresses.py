"""Addresses that are not on the internet: this machine, its network, and what else a result must not lie at."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress
from functools import lru_cache

_KINDS = ("unspecified", "loopback", "link_local", "multicast", "private", "site_local", "reserved")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_IPV4_COMPATIBLE = ipaddress.ip_network("::/96")
_METADATA = frozenset({ipaddress.ip_address("168.63.129.16")})
"""Cloud metadata behind a public address (Azure). That of other clouds is link-local, private or shared."""


@lru_cache(maxsize=1024)
def not_public(address: str) -> str | None:
    """Which sort of address that is not public this is ("loopback", "private", …), or None for a public one.

    address: IPv4 or IPv6 as numbers. An IPv6 address that carries an IPv4 one (mapped, 6to4, Teredo, NAT64) is as
    that one is. Raises `ValueError` for what is no address.
    """
    ip = _carried(ipaddress.ip_address(address))
    for kind in _KINDS:
        if getattr(ip, f"is_{kind}", False):
            return kind.replace("_", "-")
    return "private" if not ip.is_global or ip in _METADATA else None


def literal_address(host: str) -> str | None:
    """The address that a host of a URL is in itself, or None for a name that has to be resolved.

    All spellings that systems take are read: 127.1, 0x7f000001, 0177.0.0.1, 2130706433; `localhost` always is one.
    """
    host = host.strip("[]").rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return "127.0.0.1"
    with suppress(ValueError):
        return str(ipaddress.ip_address(host))
    with suppress(OSError):
        return socket.inet_ntoa(socket.inet_aton(host))
    return None


def _carried(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IPv4 address inside an IPv6 one, where there is one; else the address."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip in _NAT64 or (ip in _IPV4_COMPATIBLE and int(ip) > 0xFFFF):
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else ip)
