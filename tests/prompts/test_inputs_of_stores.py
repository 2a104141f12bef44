"""Prompt files and input images of object stores: read with the patience that the run's own store has."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import fsspec
import pytest
from PIL import Image

from abstractvision_batch.errors import InputImageError, InputUnavailableError, StorageError
from abstractvision_batch.execute.requests import InputImages
from abstractvision_batch.storage import urls
from abstractvision_batch.storage.retries import Retries
from tests.support.emulators import StoreServer
from tests.support.faulty_s3 import Fault, FaultyS3, running_door
from tests.support.openai_server import OpenAIServer, running_server
from tests.support.planning import Planner

IMAGES: dict[str, Any] = {"task": "image_to_image", "execution": {"batch_size": 2}}


@pytest.fixture
def door() -> Iterator[tuple[FaultyS3, dict[str, str]]]:
    with running_door() as (door, endpoint):
        yield door, {"endpoint_url": endpoint}


@pytest.fixture
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urls, "Retries", lambda **kinds: Retries(tries=2, first_wait_s=0.01))


def _put(url: str, data: bytes) -> None:
    with fsspec.open(url, "wb") as stream:
        stream.write(data)


def _picture(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.effect_noise((width, height), 64).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("fault", ["throttle", "hang up"])
def test_a_prompt_file_and_its_images_are_read_through_throttling_and_resets(
    s3_server: StoreServer, door: tuple[FaultyS3, dict[str, str]], planner: Planner, fault: str
) -> None:
    """The second image lies beside the prompt file's folder, and is larger than what one request reads."""
    folder = s3_server.new_url()
    _put(f"{folder}/prompts/p.csv", b"prompt,image\na fox,in/a.png\na cat,../shared/b.png\n")
    _put(f"{folder}/prompts/in/a.png", _picture(8, 6))
    _put(f"{folder}/shared/b.png", _picture(800, 600))
    faulty, options = door
    faulty.faults = [Fault("HEAD", fault), Fault("GET", fault, times=2)]

    plan = planner.build(f"{folder}/prompts/p.csv", prompts={"storage_options": options}, **IMAGES)

    assert faulty.pending == []
    assert plan.column("input_image") == [f"{folder}/prompts/in/a.png", f"{folder}/shared/b.png"]
    assert InputImages(options).read(plan.column("input_image")[1]) == _picture_at(f"{folder}/shared/b.png")


def _picture_at(url: str) -> bytes:
    with fsspec.open(url, "rb") as stream:
        data: bytes = stream.read()
    return data


@pytest.mark.usefixtures("little_patience")
def test_a_store_that_stays_down_is_a_storage_failure_and_no_broken_image(
    s3_server: StoreServer, door: tuple[FaultyS3, dict[str, str]], planner: Planner
) -> None:
    url = f"{s3_server.new_url()}/a.png"
    _put(url, _picture(800, 600))
    faulty, options = door
    rows = [{"prompt": "x", "image": url}]

    for method in ("HEAD", "GET"):
        faulty.faults = [Fault(method, "throttle", times=9)]
        with pytest.raises(
            StorageError, match=r"a\.png: .*(Slow Down|SlowDown|Reduce your request rate|Service Unavailable|503)"
        ) as caught:
            planner.build(rows, prompts={"storage_options": options}, **IMAGES)
        assert caught.value.transient
    with pytest.raises(StorageError, match=r"a\.png: "):
        InputImages(options).read(url)


def test_an_image_that_may_not_be_read_is_a_fault_of_its_row(
    s3_server: StoreServer, door: tuple[FaultyS3, dict[str, str]], planner: Planner
) -> None:
    """A store answers so, too, where a file is missing in a bucket that may not be listed."""
    url = f"{s3_server.new_url()}/a.png"
    faulty, options = door
    faulty.refused = ("HEAD", "GET")

    (problem,) = planner.problems([{"prompt": "x", "image": url}], prompts={"storage_options": options}, **IMAGES)

    assert "not a readable image: access denied" in problem
    with pytest.raises(InputImageError, match="access denied"):
        InputImages(options).read(url)


@pytest.mark.parametrize(
    ("folder", "name", "expected"),
    [
        ("memory://prompts/deep", "../a.png", "memory://prompts/a.png"),
        ("memory://prompts", "./b/../a.png", "memory://prompts/a.png"),
        ("memory://prompts", "b/a..b.png", "memory://prompts/b/a..b.png"),
    ],
)
def test_dots_in_a_relative_name_are_resolved_as_a_file_system_would(
    planner: Planner, folder: str, name: str, expected: str
) -> None:
    _put(expected, _picture(8, 8))
    _put(f"{folder}/p.csv", f"prompt,image\nx,{name}\n".encode())

    (found,) = planner.build(f"{folder}/p.csv", **IMAGES).column("input_image")

    assert found.replace(":///", "://") == expected


def test_a_name_that_leads_out_of_its_bucket_is_refused(s3_server: StoreServer, planner: Planner) -> None:
    source = f"{s3_server.new_url()}/p.csv"
    _put(source, b"prompt,image\nx,../../other/a.png\n")

    (problem,) = planner.problems(source, **IMAGES)

    assert "../../other/a.png: leads out of s3://avbatch-tests (write a whole URL)" in problem


@pytest.fixture
def web() -> Iterator[OpenAIServer]:
    with running_server() as server:
        yield server


@pytest.mark.usefixtures("little_patience")
def test_of_the_web_a_missing_image_is_permanent_and_a_failing_host_transient(
    web: OpenAIServer, planner: Planner
) -> None:
    there = web.url + web.host(_picture(8, 8))
    assert planner.build([{"prompt": "x", "image": there}], **IMAGES).column("input_image") == [there]
    web.file_faults.extend(lambda handler: handler.send(503, b"", "text/plain") for _ in range(2))

    with pytest.raises(InputUnavailableError) as failing:
        InputImages({}).read(there)
    with pytest.raises(InputImageError) as missing:
        InputImages({}).read(f"{web.url}/nothing.png")

    assert (failing.value.error_class, missing.value.error_class) == ("transient", "permanent")
    assert InputImages({}).read(there)[:4] == b"\x89PNG"
