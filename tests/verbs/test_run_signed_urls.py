"""URLs that give access are used whole, and nothing that a run leaves behind has what gives it."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from abstractvision_batch.cli import main
from abstractvision_batch.errors import SpecError
from abstractvision_batch.runs.opened import open_run
from abstractvision_batch.verbs.retry import retry
from abstractvision_batch.verbs.run import run
from tests.support.jobs import MakeJob

SECRETS = ("SIGNATURE", "PASSWORD", "SECONDSIG")


class Files(ThreadingHTTPServer):
    """Gives a file to whoever signs for it."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.signature = "SIGNATURE"
        super().__init__(("127.0.0.1", 0), _Handler)

    def url(self, path: str, *, user: str = "", query: str | None = None) -> str:
        query = f"?X-Amz-Signature={self.signature}" if query is None else query
        return f"http://{user}127.0.0.1:{self.server_port}/{path}{query}"


class _Handler(BaseHTTPRequestHandler):
    server: Files

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        signed = self.server.signature in (*query.get("X-Amz-Signature", ()), *query.get("sig", ()))
        content = self.server.contents.get(parts.path + "".join(query.get("photo", ())))
        self.send_response(403 if not signed else 404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"") if signed else 0))
        self.end_headers()
        if signed and content is not None and self.command == "GET":
            self.wfile.write(content)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def files() -> Iterator[Files]:
    with Files() as server:
        for name, shade in (("/red.png", 200), ("/get1", 100), ("/get2", 50)):
            buffer = io.BytesIO()
            Image.new("RGB", (32, 24), (shade, 0, 0)).save(buffer, "PNG")
            server.contents[name] = buffer.getvalue()
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def texts_of(folder: Path) -> Iterator[tuple[Path, str]]:
    """Everything that a run left, Parquet as its values."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            yield path, data.decode("latin-1")
            if path.suffix == ".parquet":
                yield path, str(pq.ParquetFile(path).read().to_pylist())


def assert_clean(folder: Path, *said: str) -> None:
    for secret in SECRETS:
        assert [str(path) for path, text in texts_of(folder) if secret in text] == []
        assert [text for text in said if secret in text] == []


def rows_of(files: Files) -> list[dict[str, Any]]:
    return [
        {"prompt": "a fox", "image": files.url("red.png"), "page": files.url("a.html"), "site": "https://h/?page=2"},
        {"prompt": "a cat", "image": files.url("get", query=f"?photo=1&sig={files.signature}")},
        {"prompt": "a dog", "image": files.url("get", query=f"?photo=2&sig={files.signature}")},
    ]


EDIT = {"task": "image_to_image", "params": {"strength": 0.5, "seed": 7}, "samples_per_prompt": 1}


def test_prompts_at_a_signed_url_leave_no_trace_of_the_signature(
    make_job: MakeJob, files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files.contents["/p.jsonl"] = b'{"prompt": "a fox"}\n{"prompt": "a cat"}\n'
    source = files.url("p.jsonl", user="user:PASSWORD@", query="?sig=SIGNATURE")
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(make_job(prompts={"source": source})))

    assert main(["run", str(path)]) == 0
    for command in (["record", str(tmp_path / "run"), "--json"], ["status", str(path)], ["validate", str(path)]):
        assert main(command) == 0
    assert main(["emit", "slurm", str(path)]) == 0
    files.signature = "other"
    assert main(["run", str(path)]) == 4

    printed = capsys.readouterr()
    assert_clean(tmp_path / "run", printed.out, printed.err)
    assert "/p.jsonl" in json.loads((tmp_path / "run" / "run.json").read_text())["spec"]["prompts"]["source"]


def test_a_prompt_file_at_a_new_signature_resumes_the_run(make_job: MakeJob, files: Files, tmp_path: Path) -> None:
    files.contents["/p.jsonl"] = b'{"prompt": "a fox"}\n{"prompt": "a cat"}\n'
    run(make_job(prompts={"source": files.url("p.jsonl")}))
    (tmp_path / "run" / "manifest" / "00000-a0.parquet").unlink()
    (tmp_path / "run" / "manifest.parquet").unlink()
    files.signature = "SECONDSIG"

    assert run(make_job(prompts={"source": files.url("p.jsonl")})).succeeded == 8
    assert_clean(tmp_path / "run")


def test_signed_urls_of_input_images_are_used_and_neither_planned_nor_recorded(
    make_job: MakeJob, files: Files, tmp_path: Path
) -> None:
    job = make_job(**EDIT, prompts={"source": rows_of(files)})

    assert run(job).succeeded == 3
    assert_clean(tmp_path / "run")
    rows = open_run(tmp_path / "run").table().to_pylist()
    assert rows[0]["input_image"] == files.url("red.png", query="")
    assert rows[0]["page"] == files.url("a.html", query="")
    assert rows[0]["site"] == "https://h/?page=2"
    assert len({row["input_image"] for row in rows}) == 3


def test_a_run_with_signed_images_resumes_from_its_spec(make_job: MakeJob, files: Files, tmp_path: Path) -> None:
    job = make_job(**EDIT, prompts={"source": rows_of(files)}, execution={"batch_size": 1, "shard_size": 1})
    before = run(job)
    pixels = open_run(tmp_path / "run").table()["pixel_sha256"].to_pylist()
    for name in ("manifest/00001-a0.parquet", "manifest.parquet"):
        (tmp_path / "run" / name).unlink()

    assert run(job).succeeded == before.succeeded == 3
    assert open_run(tmp_path / "run").table()["pixel_sha256"].to_pylist() == pixels


def test_images_that_were_signed_again_are_the_same_requests(make_job: MakeJob, files: Files, tmp_path: Path) -> None:
    one_by_one = {"batch_size": 1, "shard_size": 1}
    run(make_job(**EDIT, prompts={"source": rows_of(files)}, execution=one_by_one))
    for name in ("manifest/00001-a0.parquet", "manifest.parquet"):
        (tmp_path / "run" / name).unlink()
    files.signature = "SECONDSIG"
    again = make_job(**EDIT, prompts={"source": rows_of(files)}, execution=one_by_one)

    assert run(again, extend=True).succeeded == 3
    assert open_run(tmp_path / "run").plan.requests == 3
    assert_clean(tmp_path / "run")


def test_a_retry_of_the_run_alone_says_what_it_lacks_and_one_of_the_spec_works(
    make_job: MakeJob, files: Files, tmp_path: Path
) -> None:
    path = tmp_path / "job.yaml"
    job = make_job(**EDIT, prompts={"source": rows_of(files)}, backend={"kind": "procedural", "fail_when": "fox|cat"})
    path.write_text(yaml.safe_dump(job))
    assert run(path).failed == 2

    retry(tmp_path / "run", overrides=["backend.fail_when=null"])
    messages = [row["error_message"] for row in open_run(tmp_path / "run").table().to_pylist()[:2]]
    assert all("name the spec in place of the run" in message for message in messages)
    assert_clean(tmp_path / "run")

    from abstractvision_batch.job.load import load_job

    assert retry(load_job(path, overrides=["backend.fail_when=null"])).succeeded == 3


def test_a_signed_url_in_a_spec_is_not_packaged_and_one_of_a_variable_is_passed_on_by_name(
    make_job: MakeJob, files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files.contents["/p.jsonl"] = b'{"prompt": "a fox"}\n'
    signed = files.url("p.jsonl", query="?sig=SIGNATURE")
    path = tmp_path / "job.yaml"
    emit = ["emit", "kubernetes", str(path), "--image", "registry/a:1"]
    out = {"path": "s3://bucket/run"}

    path.write_text(yaml.safe_dump(make_job(prompts={"source": signed}, output=out)))
    assert main(emit) == 2
    path.write_text(yaml.safe_dump(make_job(prompts={"source": "${PROMPTS_URL}"}, output=out)))
    monkeypatch.setenv("PROMPTS_URL", signed)
    assert main([*emit, "--set", f"prompts.source={signed}"]) == 2
    refused = capsys.readouterr()
    assert main(emit) == 0
    printed = capsys.readouterr()

    assert "put it into a variable" in refused.err
    assert "PROMPTS_URL" in printed.out and "secretKeyRef" in printed.out
    assert "SIGNATURE" not in refused.err + printed.out + printed.err


def test_a_failing_image_is_named_without_its_signature(make_job: MakeJob, files: Files) -> None:
    del files.contents["/red.png"]

    with pytest.raises(SpecError) as caught:
        run(make_job(**EDIT, prompts={"source": rows_of(files)}))

    assert "red.png" in str(caught.value)
    assert not any(secret in str(caught.value) for secret in SECRETS)
