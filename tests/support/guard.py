"""What surrounds a tampered run: files that must stay, a server that must get nothing, a program that must not run."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from typer.testing import CliRunner

from abstractvision_batch.cli.app import app

#: In a file beside the run, and in a variable: it must appear nowhere.
SECRET = "TOP-SECRET-7f3a"
VARIABLE = "GUARDED_SECRET"


@dataclass
class Guard:
    """A home folder in whose `data/run` the tampered run lies, and `data/good` as it was."""

    home: Path
    url: str
    """Of the server."""
    requests: list[str] = field(default_factory=list)
    """That the server got."""

    @property
    def run(self) -> Path:
        return self.home / "data/run"

    @property
    def good(self) -> Path:
        return self.home / "data/good"

    @property
    def spec(self) -> Path:
        return self.home / "data/job.yaml"

    @property
    def program(self) -> Path:
        """Writes a file beside itself when it is started."""
        return self.run / "sd-cli"

    @property
    def victim(self) -> Path:
        return self.home / "victim"

    def snapshot(self) -> dict[str, object]:
        """Everything outside of the run and of what verbs are told to write."""
        found: dict[str, object] = {}
        for path in sorted(self.home.rglob("*")):
            name = path.relative_to(self.home).as_posix()
            if name == "data" or name.startswith(("data/run", "out-")):
                continue
            found[name] = (path.read_bytes(), path.stat().st_mtime_ns) if path.is_file() else path.stat().st_mode
        return found

    def call(self, *arguments: str) -> tuple[int, str]:
        """Run a command: its exit code, and all that it printed."""
        result = CliRunner().invoke(app, list(arguments))
        output = result.stdout + result.stderr
        assert result.exit_code in (0, 1, 2, 3, 4), (arguments, output, result.exception)
        assert "Traceback" not in output, output
        assert SECRET not in output, output
        return result.exit_code, output


VERBS = {
    "audit": ("audit", "RUN"),
    "status": ("status", "RUN"),
    "runs": ("runs", "DATA"),
    "record": ("record", "RUN"),
    "diff": ("diff", "GOOD", "RUN", "--html", "HOME/out-diff.html"),
    "verify": ("verify", "RUN", "--sample", "2"),
    "verify --python": ("verify", "RUN", "--python", "--id", "ID"),
    "rerun": ("rerun", "RUN", "-o", "HOME/out-rerun"),
    "retry": ("retry", "RUN"),
    "run": ("run", "SPEC"),
    "run --extend": ("run", "SPEC", "--extend", "--set", "samples_per_prompt=3"),
    "audit --repair": ("audit", "RUN", "--repair", "--grace-s", "0"),
}
"""What is done with a tampered run, those that change it last."""


def call_verb(guard: Guard, verb: str, request_id: str) -> tuple[int, str]:
    """Call a verb on the tampered run."""
    places = {
        "RUN": str(guard.run),
        "DATA": str(guard.run.parent),
        "GOOD": str(guard.good),
        "SPEC": str(guard.spec),
        "ID": request_id,
    }
    words = (places.get(word, word.replace("HOME", str(guard.home))) for word in VERBS[verb])
    return guard.call(*words)


@contextmanager
def listening(requests: list[str]) -> Iterator[str]:
    """A server that notes what it is asked; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(f"{self.command} {self.path} {dict(self.headers)}")
            self.send_error(404)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def write_canaries(home: Path) -> None:
    """What a stranger would like to have or to remove."""
    (home / "victim").mkdir(parents=True)
    for name in (".netrc", ".bashrc", ".tmp-mine", "private.txt", "victim/a.txt", "victim/.tmp-theirs", "x.parquet"):
        path = home / name
        path.write_text(SECRET, encoding="utf-8")
        os.utime(path, (1_000_000_000, 1_000_000_000))  # old enough for any grace
