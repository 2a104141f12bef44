"""A local folder behind the interface of an object store that counts requests, as S3 would be sent them.

URLs are ``counted:///absolute/path``. A listing is one request for each thousand keys, a look for a missing key is two
(s3fs lists after the HEAD that found nothing), and each request may be made to take a fixed time.

Not covered: failures, multipart uploads of large files (one PUT here).
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import fsspec
from fsspec import AbstractFileSystem

KEYS_PER_LISTING = 1000


class CountedFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """One process's requests by kind, all instances together."""

    protocol = "counted"
    cachable = False
    requests: ClassVar[Counter[str]] = Counter()
    latency_s = 0.0
    _lock = threading.Lock()

    @classmethod
    def count(cls, kind: str, times: int = 1) -> None:
        with cls._lock:
            cls.requests[kind] += times
        if cls.latency_s:
            time.sleep(cls.latency_s * times)

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        place = Path(self._strip_protocol(path))
        self.count("HEAD")
        if place.is_file():
            return {"name": str(place), "size": place.stat().st_size, "type": "file"}
        self.count("LIST")
        if place.is_dir():
            return {"name": str(place), "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        place = Path(self._strip_protocol(path))
        found = []
        if place.is_dir():
            with os.scandir(place) as entries:
                for entry in entries:
                    folder = entry.is_dir()
                    size = 0 if folder else entry.stat().st_size
                    found.append({"name": entry.path, "size": size, "type": "directory" if folder else "file"})
        self.count("LIST", max(1, -(-len(found) // KEYS_PER_LISTING)))
        if not found:
            raise FileNotFoundError(path)
        return found if detail else [entry["name"] for entry in found]

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        self.count("GET")
        with Path(self._strip_protocol(path)).open("rb") as file:
            file.seek(start or 0)
            return file.read() if end is None else file.read(end - (start or 0))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        self.count("PUT")
        place = Path(self._strip_protocol(path))
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("xb" if mode == "create" else "wb") as file:
            file.write(value)

    def put_file(self, lpath: str, rpath: str, mode: str = "overwrite", **options: Any) -> None:
        self.count("PUT")
        place = Path(self._strip_protocol(rpath))
        place.parent.mkdir(parents=True, exist_ok=True)
        with Path(lpath).open("rb") as source, place.open("xb" if mode == "create" else "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)

    def rm_file(self, path: str) -> None:
        self.count("DELETE")
        Path(self._strip_protocol(path)).unlink()


fsspec.register_implementation("counted", CountedFileSystem, clobber=True)
