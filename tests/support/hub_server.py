"""A stand-in for the Hugging Face hub: the repositories of a folder, over HTTP on this machine.

Answers what huggingface_hub asks for: a repository's files, their sizes, and their bytes from an offset on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer(ThreadingHTTPServer):
    """Repositories are `folder/OWNER/NAME`; those in `gated` want a token."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.gated: set[str] = set()
        self.sent: list[tuple[str, int]] = []
        """Path and number of bytes of each answer that had a file's."""
        self.cut_after: int | None = None
        """A file's answer ends after so many bytes, as when a connection breaks."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, *, with_body: bool) -> None:
        path = unquote(self.path.partition("?")[0])
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            self._describe(found[1])
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            self._list(found[1])
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._send_file(found[1], found[3], with_body=with_body)
        else:
            self._refuse(404, "EntryNotFound")

    def _files(self, repo_id: str) -> dict[str, Path] | None:
        folder = self.server.folder / repo_id
        if not folder.is_dir():
            self._refuse(404, "RepoNotFound")
            return None
        return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}

    def _describe(self, repo_id: str) -> None:
        if (files := self._files(repo_id)) is not None:
            siblings = [{"rfilename": name} for name in files]
            self._send_json({"id": repo_id, "modelId": repo_id, "sha": COMMIT, "siblings": siblings})

    def _list(self, repo_id: str) -> None:
        if (files := self._files(repo_id)) is not None:
            entries = [
                {"type": "file", "oid": _digest(path), "size": path.stat().st_size, "path": name}
                for name, path in files.items()
            ]
            self._send_json(entries)

    def _send_file(self, repo_id: str, name: str, *, with_body: bool) -> None:
        files = self._files(repo_id)
        if files is None:
            return
        if repo_id in self.server.gated and "Authorization" not in self.headers:
            self._refuse(401, "GatedRepo")
            return
        if name not in files:
            self._refuse(404, "EntryNotFound")
            return
        data = files[name].read_bytes()
        wanted = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        body = data[start:]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(body)))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("ETag", f'"{_digest(files[name])}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if with_body:
            cut = self.server.cut_after
            if cut is not None and len(body) > cut:
                self.wfile.write(body[:cut])
                self.close_connection = True
                self.server.sent.append((f"{repo_id}/{name}", cut))
                return
            self.wfile.write(body)
            self.server.sent.append((f"{repo_id}/{name}", len(body)))

    def _send_json(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _digest(path: Path) -> str:
    return hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()


@contextlib.contextmanager
def running_hub(folder: Path) -> Iterator[HubServer]:
    """Serve the repositories of a folder."""
    server = HubServer(folder)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
