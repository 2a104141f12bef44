"""Whole jobs whose files say what made them: every task and format, a repeat, a switch, servers' own files, secrets."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from abstractvision_batch.errors import SpecError
from abstractvision_batch.media.images import encode_image
from abstractvision_batch.media.metadata.embed import read_parameters
from abstractvision_batch.verbs.run import run
from abstractvision_batch.version import __version__
from tests.support.jobs import MakeJob
from tests.support.openai_server import OpenAIServer, running_server

#: A PNG's own C2PA manifest, as far as anyone looks.
_MANIFEST = b"caBX\x00\x00\x00\x08jumb"
C2PA_CHUNK = b"\x00\x00\x00\x08" + _MANIFEST + zlib.crc32(_MANIFEST).to_bytes(4)


def rows_of(path: Path | str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(Path(path) / "manifest.parquet").to_pylist()
    assert all(row["status"] == "ok" for row in rows), [row["error_message"] for row in rows]
    return rows


def files_of(path: Path | str) -> list[bytes]:
    return [Path(path, row["file_name"]).read_bytes() for row in rows_of(path)]


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "picture.png"
    path.write_bytes(encode_image(Image.linear_gradient("L").resize((32, 24)).convert("RGB"), "png"))
    return str(path)


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with running_server() as server:
        yield server


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_a_file_says_what_its_row_says(make_job: MakeJob, tmp_path: Path, format: str) -> None:
    params = {"width": 32, "height": 24, "steps": 3, "guidance_scale": 2.5, "negative_prompt": "blurry", "seed": 7}
    output = {"path": str(tmp_path / "run"), "image_format": format}

    result = run(make_job(prompts={"source": ["a fox: 狐"]}, params=params, output=output, samples_per_prompt=2))

    for row, data in zip(rows_of(result.path), files_of(result.path), strict=True):
        said = read_parameters(data)
        shared = "request_id prompt_id sample_index task model backend prompt negative_prompt seed steps guidance_scale"
        assert {name: said[name] for name in shared.split()} == {name: row[name] for name in shared.split()}
        assert (said["width"], said["height"], said["run"], said["avbatch"]) == (32, 24, "small", __version__)
        assert "not_embedded" not in json.loads(row["metadata_json"])


def test_switched_off_nothing_but_the_file_differs(make_job: MakeJob, tmp_path: Path) -> None:
    with_it, without = (
        run(make_job(output={"path": str(tmp_path / str(on)), "embed_metadata": on}, samples_per_prompt=1))
        for on in (True, False)
    )

    same = ["request_id", "prompt_id", "seed", "pixel_sha256", "media_width", "media_height", "reproducibility"]
    pairs = list(zip(rows_of(with_it.path), rows_of(without.path), strict=True))
    assert [[one[name] for name in same] for one, _ in pairs] == [[other[name] for name in same] for _, other in pairs]
    assert all(one["sha256"] != other["sha256"] for one, other in pairs)
    assert all(read_parameters(data) == {} for data in files_of(without.path))


def test_a_run_goes_on_with_the_switch_turned(make_job: MakeJob, tmp_path: Path) -> None:
    """It is no part of what the run is."""
    run(make_job(output={"path": str(tmp_path / "run"), "embed_metadata": False}, samples_per_prompt=1))

    again = run(make_job(output={"path": str(tmp_path / "run")}, samples_per_prompt=1))

    assert (again.skipped, again.exit_code) == (5, 0)


@pytest.mark.parametrize("task", ["text_to_video", "image_to_image", "multi_view_image"])
def test_a_repeat_writes_the_same_files(make_job: MakeJob, tmp_path: Path, picture: str, task: str) -> None:
    """Their names hold a hash of their bytes: a late duplicate must not make another file."""
    sections: dict[str, Any] = {
        "text_to_video": {"params": {"width": 32, "height": 24, "num_frames": 4, "fps": 4}},
        "image_to_image": {"params": {"strength": 0.5}, "prompts": {"source": [{"prompt": "fox", "image": picture}]}},
        "multi_view_image": {"params": {"width": 32, "height": 24, "extra": {"angles": ["front", "left"]}}},
    }
    job = {"task": task, "samples_per_prompt": 1, **sections[task]}

    first, second = (run(make_job(output={"path": str(tmp_path / name)}, **job)) for name in ("a", "b"))

    names = [sorted(file.name for file in Path(one.path, "artifacts").rglob("*.*")) for one in (first, second)]
    assert names[0] == names[1]
    assert files_of(first.path) == files_of(second.path)


def test_each_view_says_which_it_is(make_job: MakeJob) -> None:
    params = {"width": 32, "height": 24, "extra": {"angles": ["front", "left"]}}
    result = run(make_job(task="multi_view_image", params=params, samples_per_prompt=1))

    for row in rows_of(result.path):
        views = json.loads(row["metadata_json"])["views"]
        said = [read_parameters(Path(result.path, view["file_name"]).read_bytes())["angle"] for view in views]
        assert said == ["front", "left"]


def test_neither_secrets_nor_paths_nor_other_columns_get_in(
    make_job: MakeJob, tmp_path: Path, picture: str, monkeypatch: pytest.MonkeyPatch, server: OpenAIServer
) -> None:
    monkeypatch.setenv("SERVER_KEY", "sk-hidden-key")
    server.api_key = "sk-hidden-key"
    rows = [{"prompt": "a fox", "image": picture, "note": "hidden-note"}]
    backend = {"kind": "openai", "base_url": server.base_url, "api_key": {"env": "SERVER_KEY"}}
    params = {"width": 32, "height": 32, "extra": {"quality": "high"}}

    result = run(
        make_job(
            task="image_to_image",
            model="avbatch/procedural",
            backend=backend,
            prompts={"source": rows, "fit": "crop"},
            params=params,
            samples_per_prompt=1,
        )
    )

    (data,) = files_of(result.path)
    said = read_parameters(data)
    assert (said["input_image"], said["extra"]) == ("picture.png", {"quality": "high"})
    assert b"hidden" not in data
    assert str(tmp_path).encode() not in data


def test_a_secret_among_the_parameters_reaches_no_picture(make_job: MakeJob) -> None:
    params = {"width": 32, "height": 24, "extra": {"angles": ["front"], "hf_token": "hidden"}}

    with pytest.raises(SpecError, match="hf_token: a secret stands in the spec"):
        run(make_job(task="multi_view_image", params=params, samples_per_prompt=1))


@pytest.mark.parametrize("signed", [False, True])
def test_a_servers_file_keeps_its_bytes_and_a_signed_one_all_of_them(
    make_job: MakeJob, server: OpenAIServer, signed: bool
) -> None:
    sent: list[bytes] = []

    def finish(data: bytes) -> bytes:
        sent.append(data[:33] + C2PA_CHUNK + data[33:] if signed else data)
        return sent[-1]

    server.finish = finish
    backend = {"kind": "openai", "base_url": server.base_url}

    result = run(make_job(backend=backend, prompts={"source": ["a fox"]}, samples_per_prompt=1))

    (row,), (data,) = rows_of(result.path), files_of(result.path)
    if signed:
        assert data == sent[0]
        assert json.loads(row["metadata_json"])["not_embedded"] == ["all: the file is signed (C2PA)"]
    else:
        start = sent[0].index(b"IDAT") - 4
        assert data.startswith(sent[0][:start])
        assert data.endswith(sent[0][start:])
        assert read_parameters(data)["prompt"] == "a fox"
