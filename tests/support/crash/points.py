"""The points of a driver's life at which a crash leaves another store behind; installed from outside, in a fork.

    <write>: before            nothing of it is there; it is also what a crash just after the write before it leaves
    <write>: half written      local disk: the temporary file has half of its bytes
    <write>: unnamed           local disk: the temporary file is whole, and not linked or renamed yet
    <write>: temporary left    local disk: the name is there, and the temporary file still is
    end                        everything was written, and the process has not ended yet

A write is one call of a local store, or one request that changes an object store; `put run.json` and so on. On S3 a
crash while an answer is waited for is the `before` of the next request: the store has done what it was asked.
A change of the run's folder that no method of the store makes is a point of its own, which no table of writes has.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import stat
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from s3fs import S3FileSystem

from abstractvision_batch.storage.local import LocalStore
from abstractvision_batch.storage.names import PROBE_PREFIX

#: What writes in `LocalStore`.
LOCAL_WRITES = ("put", "put_if_absent", "delete")
#: What only reads, by what begins the name of a request to S3.
S3_READS = ("get_", "head_", "list_")
S3_WRITES = {"put_object": "put", "delete_object": "delete"}
#: Audit events of the interpreter that change a folder; the path is the last that the event names.
CHANGES = {"os.link": 1, "os.rename": 1, "os.remove": 0, "os.rmdir": 0, "os.symlink": 1}
#: Two drivers that are to meet at a point wait this long for each other, in seconds.
MEET_S = 20.0
_HASHED = re.compile(r"[0-9a-f]{12,}")


class Points:
    """Notes every point in a log; at one of them the process ends as if its plug were pulled.

    Args:
        root: The run's folder, or its bucket and prefix.
        log: Gets one line a point.
        kill_at: The point at which the process ends.
        meet_at: A point at which the process waits for another one.
        meeting: An empty folder that those two share.
    """

    def __init__(
        self,
        root: str,
        log: Path,
        *,
        kill_at: str | None = None,
        meet_at: str | None = None,
        meeting: str | None = None,
    ) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._current = threading.local()
        self.turn_to(log)
        self._kill_at = kill_at
        self._meet_at = meet_at
        self._meeting = None if meeting is None else Path(meeting)

    def turn_to(self, log: Path) -> None:
        """Note what follows in another log, and count anew; nothing ends this process any more."""
        self._log = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        self._times: Counter[str] = Counter()
        self._files: dict[str, list[str]] = {}
        self._kill_at = self._meet_at = self._meeting = None

    def reach(self, point: str, *, first: Callable[[], object] = lambda: None) -> None:
        """Note a point; a crash there does `first` before."""
        with self._lock:
            self._times[point] += 1
            point = point if self._times[point] == 1 else f"{point} ({self._times[point]})"
            os.write(self._log, f"{point}\n".encode())
        if point == self._kill_at:
            first()
            os.kill(os.getpid(), signal.SIGKILL)
        if point == self._meet_at and self._meeting is not None:
            (self._meeting / str(os.getpid())).touch()
            until = time.monotonic() + MEET_S
            while len(list(self._meeting.iterdir())) < 2 and time.monotonic() < until:
                time.sleep(0.001)

    def watch_disk(self) -> None:
        """Note the points of local stores."""
        for method in LOCAL_WRITES:
            setattr(LocalStore, method, self._watched(getattr(LocalStore, method), method))
        LocalStore.probe_conditional_put = self._watched(LocalStore.probe_conditional_put, "probe")  # type: ignore[method-assign]

        def tearing_fsync(fd: Any) -> None:
            # Nothing is synced: what a killed process has written stays, and a disk's time is most of a case's.
            status = os.fstat(fd)
            if self._write is not None and stat.S_ISREG(status.st_mode):
                tear = functools.partial(os.ftruncate, fd, status.st_size // 2)
                self.reach(f"{self._write}: half written", first=tear)

        os.fsync = tearing_fsync
        sys.addaudithook(self._on_event)

    def watch_s3(self) -> None:
        """Note the points of S3."""
        call_s3 = S3FileSystem._call_s3

        @functools.wraps(call_s3)
        async def watched(filesystem: S3FileSystem, method: str, *more: dict[str, Any], **arguments: Any) -> Any:
            named = {key: value for one in (*more, arguments) for key, value in one.items()}
            path = f"{named.get('Bucket')}/{named.get('Key')}"
            if not method.startswith(S3_READS) and path.startswith(f"{self._root}/"):
                word = S3_WRITES.get(method, method) + ("_if_absent" if "IfNoneMatch" in named else "")
                self.reach(f"{word} {self._label(path.removeprefix(f'{self._root}/'))}: before")
            return await call_s3(filesystem, method, *more, **arguments)

        S3FileSystem._call_s3 = watched

    @property
    def _write(self) -> str | None:
        """What this thread is writing."""
        return getattr(self._current, "write", None)

    def _watched(self, method: Callable[..., Any], word: str) -> Callable[..., Any]:
        @functools.wraps(method)
        def watched(store: LocalStore, *arguments: Any) -> Any:
            if str(store.root) != self._root:
                return method(store, *arguments)
            with self._writing(" ".join([word, *(self._label(name) for name in arguments[:1])])):
                return method(store, *arguments)

        return watched

    @contextlib.contextmanager
    def _writing(self, write: str) -> Iterator[None]:
        self.reach(f"{write}: before")
        self._current.write = write
        try:
            yield
        finally:
            self._current.write = None

    def _on_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Called by the interpreter before it does what the event says."""
        if event == "open":
            path, _, flags = arguments
            if not isinstance(path, str) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
                return
        elif event in CHANGES:
            path = os.fspath(arguments[CHANGES[event]])
        else:
            return
        if not path.startswith(f"{self._root}/"):
            return
        if self._write is None:
            self.reach(f"outside of the store: {event} {path}")
        elif event in ("os.link", "os.rename"):
            self.reach(f"{self._write}: unnamed")
        elif event == "os.remove" and not self._write.startswith("delete ") and Path(path).exists():
            self.reach(f"{self._write}: temporary left")

    def _label(self, name: str) -> str:
        """The name, with a number in place of the hash that begins or ends it."""
        folder, _, last = name.rpartition("/")
        if last.startswith(PROBE_PREFIX):
            return "probe"
        hashed = _HASHED.search(last)
        if hashed is None:
            return name
        label = f"{folder}/{last[: hashed.start()]}"
        with self._lock:
            seen = self._files.setdefault(label, [])
            if last not in seen:
                seen.append(last)
            return f"{label}{seen.index(last) + 1}"
