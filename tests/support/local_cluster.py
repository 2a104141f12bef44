"""A Ray cluster started as its users start one, by `ray start` for each node, on this machine or in network namespaces.

Each node is a process group of its own, so killing the group is pulling a machine's plug, and nothing here touches any
other Ray of the machine (`ray stop` would). Every port is a free one.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

START_TIMEOUT_S = 120
#: A node that is gone is noticed after 5 s instead of 15; one that is merely slow has as long as ever.
SYSTEM_CONFIG = '{"health_check_period_ms": 1000}'


@dataclass(frozen=True, slots=True)
class Host:
    """Where a node runs: its address, what to say before a command to run it there, and its folder for Ray's files."""

    ip: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()
    folder: Path | None = None
    """None: the head's."""


@dataclass
class LocalCluster:
    """A head, and nodes that come and go."""

    folder: Path
    environ: dict[str, str]
    host: Host
    python: Path
    """Of the nodes."""
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    address: str = ""
    dashboard: str = ""

    def start_head(self, cpus: int) -> None:
        """Start the head with its dashboard; returns once that answers."""
        port, dashboard_port = free_port(), free_port()
        self.address = f"{self.host.ip}:{port}"
        self.dashboard = f"http://{self.host.ip}:{dashboard_port}"
        self._start(
            self.host,
            *("--head", f"--port={port}", f"--dashboard-host={self.host.ip}", f"--dashboard-port={dashboard_port}"),
            *(f"--ray-client-server-port={free_port()}", f"--system-config={SYSTEM_CONFIG}", f"--num-cpus={cpus}"),
        )
        self._wait(lambda: self._answers(f"{self.dashboard}/api/version"), "the dashboard does not answer")

    def add_node(self, cpus: int, host: Host | None = None) -> subprocess.Popen[bytes]:
        """Let a node join; returns once it has."""
        node = self._start(host or self.host, f"--address={self.address}", f"--num-cpus={cpus}")
        self._wait(lambda: "Ray runtime started" in self._said(node), "a node does not join")
        return node

    def kill_node(self, node: subprocess.Popen[bytes]) -> None:
        """End a node as a power cut would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGKILL)
        node.wait(30)

    def log(self) -> str:
        """What the nodes' commands said."""
        return "\n".join(self._said(process) for process in self.processes)

    def close(self) -> None:
        """End every node, the head last."""
        for process in reversed(self.processes):
            self.kill_node(process)

    def _start(self, host: Host, *options: str) -> subprocess.Popen[bytes]:
        ray = [str(self.python), "-m", "ray.scripts.scripts", "start", "--block"]
        command = [*host.prefix, *ray, f"--node-ip-address={host.ip}", *options]
        if host.folder is not None:
            command.append(f"--temp-dir={host.folder}")
        command += ["--min-worker-port=0", "--max-worker-port=0", f"--dashboard-agent-listen-port={free_port()}"]
        with (self.folder / f"node-{len(self.processes)}.log").open("wb") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=self.environ, start_new_session=True
            )
        self.processes.append(process)
        return process

    def _said(self, process: subprocess.Popen[bytes]) -> str:
        text = (self.folder / f"node-{self.processes.index(process)}.log").read_text(errors="replace")
        return re.sub(r"\x1b\[[\d;]*m", "", text)

    def _answers(self, url: str) -> bool:
        if self.host.prefix:
            command = [*self.host.prefix, sys.executable, "-c", f"import urllib.request as u; u.urlopen({url!r})"]
            done = subprocess.run(command, capture_output=True, text=True)
            return done.returncode == 0 or "HTTP Error 401" in done.stderr
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError as exc:
            return exc.code == 401  # it asks for a token
        except OSError:
            return False
        return True

    def _wait(self, ready: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not ready():
            ended = any(process.poll() is not None for process in self.processes[-1:])
            if ended or time.monotonic() > deadline:
                raise RuntimeError(f"{what}:\n{self.log()}")
            time.sleep(0.2)


@contextlib.contextmanager
def local_cluster(
    *,
    cpus: int = 0,
    host: Host | None = None,
    environ: Mapping[str, str] | None = None,
    python: Path | None = None,
) -> Iterator[LocalCluster]:
    """A running cluster of a head with `cpus` CPUs; every node has the variables of `environ` over this process's.

    Nodes run this process's Python with this package, or `python` with what that has.
    """
    folder = Path(tempfile.mkdtemp(prefix="avb-"))  # short: the paths of its sockets may have 107 bytes
    root = str(Path(__file__).resolve().parent.parent)
    given = {**os.environ, **(environ or {})}
    own = {
        **given,
        "PATH": f"{(python or Path(sys.executable)).parent}:{given['PATH']}",  # a job's command is `python`
        "PYTHONPATH": root if python is None else "",
        "RAY_TMPDIR": str(folder),  # no other program that looks for a running cluster finds this one
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    own.pop("RAY_ADDRESS", None)
    cluster = LocalCluster(folder, own, host or Host(), python or Path(sys.executable))
    try:
        cluster.start_head(cpus)
        yield cluster
    finally:
        cluster.close()
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
