"""Hosts with addresses of their own on this machine: network namespaces, joined by a bridge in one more.

What a process in one of them reaches is the others, by their addresses, and nothing else. Needs root and `ip`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Namespace:
    """One host."""

    name: str
    ip: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """What to say before a command to run it there."""
        return ("ip", "netns", "exec", self.name)


def can_make_namespaces() -> bool:
    """Whether this process may."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = _new_name("try")
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode == 0
    if made:
        _ip("netns", "delete", name)
    return made


@contextlib.contextmanager
def joined_namespaces(count: int) -> Iterator[list[Namespace]]:
    """So many hosts that reach each other; gone at the end."""
    hub = _new_name("hub")
    hosts = [Namespace(_new_name(f"h{number}"), f"10.213.7.{number + 1}") for number in range(count)]
    with contextlib.ExitStack() as made:
        for name in (hub, *(host.name for host in hosts)):
            _ip("netns", "add", name)
            made.callback(_ip, "netns", "delete", name)
        _ip("-n", hub, "link", "add", "bridge", "type", "bridge")
        _ip("-n", hub, "link", "set", "bridge", "up")
        for number, host in enumerate(hosts):
            port = f"port{number}"
            _ip("-n", hub, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host.name)
            _ip("-n", hub, "link", "set", port, "master", "bridge", "up")
            _ip("-n", host.name, "address", "add", f"{host.ip}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", host.name, "link", "set", device, "up")
        yield hosts


def _new_name(what: str) -> str:
    return f"avb-{what}-{uuid.uuid4().hex[:6]}"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
