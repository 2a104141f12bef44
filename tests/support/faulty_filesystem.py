"""An fsspec file system in memory that fails on demand, before or after it does what it was asked."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from fsspec.implementations.memory import MemoryFileSystem

from abstractvision_batch.storage.objects import ObjectStore
from abstractvision_batch.storage.retries import Retries


@dataclass
class Fault:
    """What happens once to the next call of an operation."""

    operation: str
    error: Exception
    done_first: bool = False
    """The answer is lost, not the request."""
    also: Callable[[], object] = lambda: None
    """What somebody else does meanwhile."""


@dataclass
class FakeTime:
    """A clock that only sleeping moves."""

    now_s: float = 0.0
    waits_s: list[float] = field(default_factory=list)

    def now(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.waits_s.append(seconds)
        self.now_s += seconds


class FaultyFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """Names under one dictionary; puts with `mode="create"` are atomic unless told otherwise."""

    protocol = "faulty"
    cachable = False
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    def __init__(self) -> None:
        super().__init__()
        self.store = {}  # type: ignore[misc]
        self.pseudo_dirs = [""]  # type: ignore[misc]
        self.faults: list[Fault] = []
        self.calls: list[str] = []
        self.honours_condition = True
        self._lock = threading.RLock()

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        self._do("pipe_file", lambda: self._put(path, value, mode))

    def put_file(self, lpath: str, rpath: str, mode: str = "overwrite", **kwargs: Any) -> None:
        with open(lpath, "rb") as file:  # noqa: PTH123  fsspec gives text
            value = file.read()
        self._do("put_file", lambda: self._put(rpath, value, mode))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> Any:
        return self._do("cat_file", lambda: MemoryFileSystem.cat_file(self, path, start, end))

    def info(self, path: str, **kwargs: Any) -> Any:
        return self._do("info", lambda: MemoryFileSystem.info(self, path))

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        return self._do("ls", lambda: MemoryFileSystem.ls(self, path, detail=detail))

    def rm_file(self, path: str) -> None:
        self._do("rm_file", lambda: MemoryFileSystem.rm_file(self, path))

    def _put(self, path: str, value: bytes, mode: str) -> None:
        with self._lock:
            if mode == "create" and self.honours_condition and self._strip_protocol(path) in self.store:
                raise FileExistsError(path)
            MemoryFileSystem.pipe_file(self, path, value)

    def _do(self, operation: str, action: Callable[[], Any]) -> Any:
        self.calls.append(operation)
        fault = next((fault for fault in self.faults if fault.operation == operation), None)
        if fault is None:
            return action()
        self.faults.remove(fault)
        if fault.done_first:
            action()
        fault.also()
        raise fault.error


def faulty_store(time: FakeTime | None = None, **retries: Any) -> tuple[ObjectStore, FaultyFileSystem]:
    """A store of its own; waits are the longest that jitter allows and take no time."""
    filesystem, time = FaultyFileSystem(), time or FakeTime()
    policy = Retries(**{"sleep": time.sleep, "now": time.now, "random": lambda: 1.0, **retries})
    return ObjectStore("faulty://bucket/run", filesystem, "/bucket/run", retries=policy), filesystem
