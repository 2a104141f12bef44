"""Whole jobs on every kind of store, and what other programs read of them there."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import polars
import pyarrow as pa
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from abstractvision_batch.cli.app import app
from abstractvision_batch.errors import AbstractVisionError, SpecError, StorageError
from abstractvision_batch.job.load import load_job
from abstractvision_batch.runs.opened import Run, open_run
from abstractvision_batch.storage.store import open_store
from abstractvision_batch.verbs.run import run
from tests.support.emulators import BUCKET, StoreServer
from tests.support.jobs import MakeJob

#: Columns of when and by whom; all others are equal wherever the run lives.
OF_THE_MOMENT = {"started_at", "finished_at", "latency_s", "worker", "environment_id"}
#: gcp-storage-emulator ignores `ifGenerationMatch`.
CONDITIONAL_PUT = {"memory": True, "s3": True, "gs": False, "abfs": True}


@pytest.fixture(params=CONDITIONAL_PUT)
def server(request: pytest.FixtureRequest) -> StoreServer:
    """One kind of store after the other."""
    if request.param == "memory":
        return StoreServer("memory")
    found: StoreServer = request.getfixturevalue(f"{request.param}_server")
    return found


def _output(server: StoreServer) -> dict[str, Any]:
    return {"path": server.new_url(), "storage_options": server.options}


def _rows(run: Run) -> pa.Table:
    manifest = run.table()
    return manifest.select([name for name in manifest.column_names if name not in OF_THE_MOMENT])


@pytest.mark.sampled(2)
def test_the_same_spec_gives_the_same_manifest_and_files_on_every_store(
    server: StoreServer, make_job: MakeJob, tmp_path: Path
) -> None:
    run(make_job())
    job = make_job(output=_output(server))

    result = run(job)

    local, remote = open_run(tmp_path / "run"), open_run(result.path, server.options)
    assert (result.generated, result.exit_code) == (20, 0)
    assert _rows(remote) == _rows(local)
    for row in remote.table().to_pylist():
        assert hashlib.sha256(remote.read_artifact(row)).hexdigest() == row["sha256"]
    assert remote.store.list("") == local.store.list("")
    assert (local.record.data["conditional_put"], remote.record.data["conditional_put"]) == (
        True,
        CONDITIONAL_PUT[server.protocol],
    )


def test_a_file_url_is_a_folder_like_any_other(make_job: MakeJob, tmp_path: Path) -> None:
    run(make_job())

    result = run(make_job(output={"path": f"file://{tmp_path}/by-url"}))

    assert _rows(open_run(result.path)) == _rows(open_run(tmp_path / "run")) == _rows(open_run(tmp_path / "by-url"))


@pytest.mark.sampled(4)
def test_a_shard_without_a_part_is_run_again_alone(server: StoreServer, make_job: MakeJob) -> None:
    job = make_job(output=_output(server))
    path = run(job).path
    whole = _rows(open_run(path, server.options))
    open_store(path, server.options).delete("manifest/00002-a0.parquet")

    again = run(job)

    assert again.generated == 4
    assert _rows(open_run(path, server.options)) == whole
    assert run(job).generated == 0


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", ["s3", "gs"])
def test_two_drivers_at_once_leave_one_whole_run_even_where_the_condition_is_ignored(
    kind: str, request: pytest.FixtureRequest, make_job: MakeJob, tmp_path: Path
) -> None:
    server: StoreServer = request.getfixturevalue(f"{kind}_server")
    job = make_job(output=_output(server), backend={"kind": "procedural", "delay_s": 0.05})
    spec = tmp_path / "job.yaml"
    spec.write_text(yaml.safe_dump(job))
    command = [sys.executable, "-m", "abstractvision_batch", "run", str(spec), "--quiet"]
    drivers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]

    said = [driver.communicate(timeout=120)[1] for driver in drivers]

    assert [driver.returncode for driver in drivers] == [0, 0], said
    run(make_job())
    assert _rows(open_run(job["output"]["path"], server.options)) == _rows(open_run(tmp_path / "run"))


def test_prompts_and_input_images_are_read_from_the_store(s3_server: StoreServer, make_job: MakeJob) -> None:
    folder, store = (url := s3_server.new_url()).rsplit("/", 1)[-1], open_store(url)
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        stream = io.BytesIO()
        Image.new("RGB", (32, 24), colour).save(stream, "PNG")
        store.put(f"prompts/images/{name}.png", stream.getvalue())
    absolute = f"s3://{BUCKET}/{folder}/prompts/images/blue.png"
    store.put("prompts/a.csv", b"prompt,image\na fox,images/red.png\n")
    store.put("prompts/b.csv", f"prompt,image\na cat,{absolute}\n".encode())
    job = make_job(task="image_to_image", prompts={"source": f"{url}/prompts/*.csv"}, output={"path": f"{url}/run"})

    result = run(job)

    rows = open_run(result.path).table().to_pylist()
    assert (result.succeeded, result.failed) == (8, 0)
    assert {row["prompt"] for row in rows} == {"a fox", "a cat"}
    assert absolute in {row["input_image"] for row in rows}


def test_polars_and_duckdb_read_the_manifest_where_it_is(s3_server: StoreServer, make_job: MakeJob) -> None:
    manifest_url = run(make_job(output=_output(s3_server))).manifest_path
    assert manifest_url is not None
    options = {"aws_endpoint_url": os.environ["AWS_ENDPOINT_URL_S3"], "aws_allow_http": "true"}

    frame = polars.scan_parquet(manifest_url, storage_options=options).filter(polars.col("status") == "ok").collect()
    connection = duckdb.connect()
    connection.register_filesystem(fsspec.filesystem("s3"))
    counted = connection.sql(
        f"select prompt, count(*) as n, count(distinct seed) as seeds from '{manifest_url}' group by prompt"
    ).fetchall()

    assert frame.height == 20
    assert {(n, seeds) for _, n, seeds in counted} == {(4, 4)}
    assert len(counted) == 5


@pytest.mark.parametrize("kind", ["s3", "gs", "abfs"])
def test_a_bucket_that_does_not_exist_is_one_line_and_is_not_made(
    kind: str, request: pytest.FixtureRequest, make_job: MakeJob
) -> None:
    server: StoreServer = request.getfixturevalue(f"{kind}_server")
    bucket = f"nobody-made-{uuid.uuid4().hex[:8]}"
    output = {"path": f"{kind}://{bucket}/run", "storage_options": server.options}

    with pytest.raises(SpecError, match=r"output.path: [^\n]*avbatch never creates one[^\n]*") as caught:
        run(make_job(output=output))

    assert bucket in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not fsspec.filesystem(kind, **server.options, use_listings_cache=False).exists(bucket)


@pytest.mark.parametrize(("transient", "exit_code"), [(True, 4), (False, 2)])
def test_a_store_that_cannot_be_reached_is_told_from_one_that_refuses(
    transient: bool, exit_code: int, make_job: MakeJob
) -> None:
    """A scheduler tries the first again and gives up on the second."""
    with pytest.raises(AbstractVisionError) as caught, load_job(make_job()).blame("output.path"):
        raise StorageError("s3://bucket: said no", transient=transient)

    assert caught.value.exit_code == exit_code
    assert "output.path: s3://bucket: said no" in str(caught.value)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("verb", ["run", "status", "audit", "retry", "runs", "diff", "rerun", "verify", "record"])
def test_a_store_that_is_down_at_the_start_is_4_and_one_line_in_every_verb(
    verb: str, make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("s3fs")
    monkeypatch.setenv("AVBATCH_STORE_PATIENCE_S", "0.2")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    url, options = "s3://bucket/run", {"endpoint_url": "http://127.0.0.1:9"}
    spec = tmp_path / "job.yaml"
    spec.write_text(yaml.safe_dump(make_job(output={"path": url, "storage_options": options})))
    place = ["--storage-option", f"endpoint_url={options['endpoint_url']}"]
    words = {
        "run": [str(spec), "--quiet"],
        "diff": [url, url, *place],
        "rerun": [url, "-o", str(tmp_path / "o"), *place],
    }

    ended = CliRunner().invoke(app, [verb, *words.get(verb, [url, *place])])

    assert ended.exit_code == 4, ended.output
    assert len(ended.stderr.splitlines()) == 1
    assert "s3://bucket/run" in ended.stderr


def test_missing_credentials_are_one_line_that_says_where_they_are_looked_for(
    s3_server: StoreServer, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, os.devnull)
    output = {"path": s3_server.new_url(), "storage_options": {"skip_instance_cache": True}}

    with pytest.raises(SpecError, match=r"access denied: [^\n]*credentials[^\n]*docs/storage.md"):
        run(make_job(output=output))


def test_wrong_credentials_are_one_line(
    abfs_server: StoreServer, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = os.environ["AZURE_STORAGE_CONNECTION_STRING"]
    monkeypatch.setenv("MY_STORE", connection.replace("AccountKey=E", "AccountKey=F"))
    output = {"path": abfs_server.new_url(), "storage_options": {"connection_string": {"env": "MY_STORE"}}}

    with pytest.raises(SpecError, match="access denied") as caught:
        run(make_job(output=output))

    assert "\n" not in str(caught.value)


def test_secrets_of_the_store_come_from_the_environment_and_stay_out_of_the_record(
    abfs_server: StoreServer, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = os.environ["AZURE_STORAGE_CONNECTION_STRING"]
    monkeypatch.setenv("MY_STORE", connection)
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
    output = {"path": abfs_server.new_url(), "storage_options": {"connection_string": {"env": "MY_STORE"}}}

    result = run(make_job(output=output))

    record = open_store(result.path, {"connection_string": connection}).read("run.json")
    assert result.succeeded == 20
    assert json.loads(record)["spec"]["output"]["storage_options"] == {"connection_string": {"env": "MY_STORE"}}
    assert connection.encode() not in record


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_workers_of_a_cluster_write_to_the_store_with_the_drivers_secrets(
    s3_server: StoreServer, make_job: MakeJob, tmp_path: Path
) -> None:
    """They have none of their own: Ray may have been started long before, elsewhere."""
    options = {
        "endpoint_url": os.environ["AWS_ENDPOINT_URL_S3"],
        "key": {"env": "AWS_ACCESS_KEY_ID"},
        "secret": {"env": "AWS_SECRET_ACCESS_KEY"},
    }
    execution = {"batch_size": 2, "shard_size": 4, "executor": "ray"}
    job = make_job(output={"path": s3_server.new_url(), "storage_options": options}, execution=execution)

    result = run(job)

    run(make_job())
    there, here = (_rows(open_run(path)) for path in (result.path, tmp_path / "run"))
    assert result.succeeded == 20
    assert there == here
