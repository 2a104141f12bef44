"""Which addresses are of this machine or its network, and which ones a host name has.

Not covered: who may be asked (`transport`).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket


def is_private_address(address: str) -> bool:
    """Return whether an IP address is not one of the public internet.

    That is: loopback, private, link-local (cloud metadata services), carrier-grade NAT, multicast, reserved,
    unspecified, and IPv6 forms that carry such an IPv4 address (RFC 6890, RFC 4291, RFC 6052, RFC 3056).
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return True  # what is no address is not known to be public
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or _translated(found)
        if inner is not None:
            return is_private_address(str(inner))
    return not found.is_global or found.is_multicast


async def resolve(host: str) -> list[str]:
    """Return every IP address of a host name, none where it has none."""
    try:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _translated(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address in one of NAT64's prefix 64:ff9b::/96."""
    if address in ipaddress.IPv6Network("64:ff9b::/96"):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None
