"""A Hugging Face hub of one data set on 127.0.0.1, as far as `datasets` asks it: facts, folders, files."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serve_dataset(repository: str, files: dict[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """Yield the address of the hub, and the paths that were asked for."""
    asked: list[str] = []

    def entries(folder: str) -> list[dict[str, Any]]:
        """All files and folders below a folder, as the hub lists them recursively."""
        found: dict[str, dict[str, Any]] = {}
        for name, data in files.items():
            for parent in list(PurePosixPath(name).parents)[:-1]:
                found[str(parent)] = {"type": "directory", "path": str(parent), "size": 0, "oid": "0" * 40}
            found[name] = {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        return [entry for path, entry in found.items() if not folder or path.startswith(f"{folder}/")]

    class Hub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            """Which of the paths there are, as the library asks before it opens them."""
            body = parse_qs(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())
            self._send(json.dumps([entry for entry in entries("") if entry["path"] in body.get("paths", ())]).encode())

        def log_message(self, *args: object) -> None: ...

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            asked.append(path)
            api, resolve = f"/api/datasets/{repository}", f"/datasets/{repository}/resolve/"
            if path.startswith(resolve):
                name = path.removeprefix(resolve).partition("/")[2]
                self._send(files.get(name), "application/octet-stream")
            elif path == api or path.startswith(f"{api}/revision/"):
                siblings = [{"rfilename": name} for name in files]
                about: dict[str, Any] = {"id": repository, "sha": COMMIT, "siblings": siblings, "private": False}
                self._send(json.dumps({**about, "tags": [], "disabled": False, "gated": False}).encode())
            elif path.startswith(f"{api}/tree/"):
                folder = path.removeprefix(f"{api}/tree/").partition("/")[2]
                found = entries(folder)
                self._send(json.dumps(found).encode() if found else None)
            else:
                self._send(None)

        def _send(self, body: bytes | None, kind: str = "application/json") -> None:
            self.send_response(404 if body is None else 200)
            if body is None:
                self.send_header("X-Error-Code", "EntryNotFound" if repository in self.path else "RepoNotFound")
            else:
                self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body or b"")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
