"""The OpenAI-compatible backend on the real sd-server of stable-diffusion.cpp, with a tiny random model."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from abstractvision_batch.backends import (
    OpenAICompatibleBackendConfig,
    OpenAICompatibleVisionBackend,
    StableDiffusionCppVisionBackend,
)
from abstractvision_batch.errors import (
    BackendBusyError,
    CapabilityNotSupportedError,
    GenerationError,
)
from abstractvision_batch.media.images import decode_image, pixel_sha256
from abstractvision_batch.types import (
    GeneratedAsset,
    ImageEditRequest,
    ImageGenerationRequest,
    VideoGenerationRequest,
    VisionRequest,
)
from abstractvision_batch.verbs.run import run
from tests.backends.test_contract import a_picture
from tests.support.jobs import MakeJob
from tests.support.sdcpp_models import config_for

pytestmark = pytest.mark.sdcpp

FOX = ImageGenerationRequest("a fox", width=64, height=32, steps=2, seed=1, guidance_scale=1.0)
EDIT = ImageEditRequest("a fox", image=a_picture(64, 32), steps=3, seed=5, strength=0.7, guidance_scale=1.0)
START_TIMEOUT_S = 60


@pytest.fixture(scope="module")
def sd_server(sdcpp_models: Path) -> Iterator[str]:
    """The `/v1` URL of one sd-server for the module."""
    config = config_for("server", sdcpp_models)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    program = str(Path(config.sd_cli_path).with_name("sd-server"))
    model = ["--model", str(config.model), "--taesd", str(config.taesd), "--rng", "cpu", "--threads", "1"]
    command = [program, *model, "--listen-ip", "127.0.0.1", "--listen-port", port]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(int(port), process)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, "sd-server ended"
        assert time.monotonic() < deadline, "sd-server does not listen"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def backend(sd_server: str) -> Iterator[OpenAICompatibleVisionBackend]:
    config = OpenAICompatibleBackendConfig(sd_server, timeout_s=120, retries=0)
    with OpenAICompatibleVisionBackend(config) as backend:
        yield backend


def digest(item: object) -> str:
    assert isinstance(item, GeneratedAsset), item
    return pixel_sha256(decode_image(item.data))


def test_a_seed_gives_the_same_picture_of_the_size_asked_for_again(backend: OpenAICompatibleVisionBackend) -> None:
    first, again, other = (backend.generate_image(request) for request in (FOX, FOX, replace(FOX, seed=2)))

    assert decode_image(first.data).size == (64, 32)
    assert digest(first) == digest(again) != digest(other)
    assert first.metadata["seed"] == 1
    assert first.metadata["reproducibility"] == "seeded-remote"
    assert "not_sent" not in first.metadata


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "change",
    [
        {"steps": 3},
        {"guidance_scale": 4.0},
        {"guidance_scale": 4.0, "negative_prompt": "a dog"},
        {"prompt": "ein Wölfl"},
    ],
    ids=lambda change: "+".join(change),
)
def test_every_parameter_reaches_the_server(backend: OpenAICompatibleVisionBackend, change: dict[str, Any]) -> None:
    without_last = dict(list(change.items())[:-1])

    assert digest(backend.generate_image(replace(FOX, **change))) != digest(
        backend.generate_image(replace(FOX, **without_last))
    )


def test_guidance_of_zero_means_without_guidance(backend: OpenAICompatibleVisionBackend) -> None:
    """The server reads 0 as without the prompt."""
    assert digest(backend.generate_image(replace(FOX, guidance_scale=0.0))) == digest(backend.generate_image(FOX))


def test_an_edit_depends_on_image_seed_and_strength_and_is_as_large_as_its_image(
    backend: OpenAICompatibleVisionBackend,
) -> None:
    changes: list[dict[str, Any]] = [{}, {}, {"seed": 6}, {"strength": 0.3}, {"image": a_picture(64, 64)}]
    assets = [backend.edit_image(replace(EDIT, **change)) for change in changes]

    first, again, *others = map(digest, assets)
    assert first == again
    assert len({first, *others}) == len(changes) - 1
    assert [decode_image(asset.data).size for asset in assets] == [(64, 32)] * 4 + [(64, 64)]


def test_a_mask_says_where_an_edit_may_change_the_picture(backend: OpenAICompatibleVisionBackend) -> None:
    everywhere, gradient = (replace(EDIT, mask=mask) for mask in (None, a_picture(64, 32)))

    assert digest(backend.edit_image(everywhere)) != digest(backend.edit_image(gradient))


def test_several_images_of_one_call_have_seeds_of_their_own(backend: OpenAICompatibleVisionBackend) -> None:
    assets = backend.generate_images(replace(FOX, extra={"n": 2}))

    assert [digest(asset) for asset in assets] == [
        digest(backend.generate_image(replace(FOX, seed=seed))) for seed in (1, 2)
    ]


def test_the_pixels_are_those_of_the_sdcpp_backend(backend: OpenAICompatibleVisionBackend, sdcpp_models: Path) -> None:
    """Edits are not compared: this API gives the model its image as a reference too."""
    guided = replace(FOX, guidance_scale=4.5, negative_prompt="a dog", seed=2**40 + 3)
    theirs: list[VisionRequest] = [FOX, guided, replace(guided, extra={"sampler": "euler_a"})]
    ours = [*theirs[:2], replace(guided, extra={"sample_params": {"sample_method": "euler_a"}})]

    with StableDiffusionCppVisionBackend(config_for("server", sdcpp_models)) as local:
        expected = [digest(item) for item in local.generate_batch(theirs)]

    assert [digest(item) for item in backend.generate_batch(ours)] == expected
    assert len(set(expected)) == 3


def test_the_catalog_names_the_one_model(backend: OpenAICompatibleVisionBackend) -> None:
    (model,) = backend.list_provider_models()

    assert (model.id, model.owned_by) == ("sd-cpp-local", "local")
    assert backend.list_provider_models(task="text_to_image") == [model]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 101}, "steps: 101 where sd-server takes 1 to 100"),
        ({"extra": {"sampler": "euler"}}, "extra.sampler: unknown to sd-server"),
        ({"extra": {"sample_param": {}}}, r"extra.sample_param: unknown .*did you mean sample_params\?"),
        (
            {"extra": {"sample_params": {"sample_steps": 9}}},
            r"extra.sample_params.sample_steps: the request has it too",
        ),
        ({"extra": {"sample_params": 9}}, r"extra.sample_params: the request has it too"),
        ({"prompt": "a<sd_cpp_extra_args>{}"}, "prompt: <sd_cpp_extra_args> in it would set parameters"),
    ],
)
def test_what_the_server_would_pass_over_is_an_error(
    backend: OpenAICompatibleVisionBackend, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(GenerationError, match=message):
        backend.generate_image(replace(FOX, **change))


def test_what_the_server_refuses_is_quoted(backend: OpenAICompatibleVisionBackend) -> None:
    with pytest.raises(GenerationError, match="400: prompt required"):
        backend.generate_image(ImageGenerationRequest(""))
    with pytest.raises(BackendBusyError, match=r"500: server_error: .*type must be string, but is number"):
        backend.generate_image(replace(FOX, extra={"output_format": 7}))


def test_videos_are_refused_even_where_their_api_is_configured(sd_server: str) -> None:
    config = OpenAICompatibleBackendConfig(sd_server, dialect="sd_server", video_mode="videos_api")
    with OpenAICompatibleVisionBackend(config) as backend, pytest.raises(CapabilityNotSupportedError):
        backend.generate_video(VideoGenerationRequest("a fox"))


def test_a_bad_request_never_costs_its_neighbours(backend: OpenAICompatibleVisionBackend) -> None:
    good, empty, other = backend.generate_batch([FOX, ImageGenerationRequest(""), replace(FOX, seed=2)])

    assert isinstance(empty, GenerationError)
    assert digest(good) != digest(other)


@pytest.mark.parametrize("settings", [{"dialect": "sd_server"}, {"request_shape": "sd_server"}])
def test_a_named_server_is_told_the_same(
    backend: OpenAICompatibleVisionBackend, sd_server: str, settings: dict[str, Any]
) -> None:
    """The one that was asked what it is, and `request_shape` of older specs, give the same pictures."""
    with OpenAICompatibleVisionBackend(OpenAICompatibleBackendConfig(sd_server, **settings)) as named:
        assert digest(named.generate_image(FOX)) == digest(backend.generate_image(FOX))


@pytest.mark.slow
def test_a_whole_job_runs_twice_with_the_same_pixels(sd_server: str, make_job: MakeJob, tmp_path: Path) -> None:
    def make_rows(name: str) -> list[dict[str, Any]]:
        job = make_job(
            model="stabilityai/stable-diffusion-xl-base-1.0",
            backend={"kind": "openai", "base_url": sd_server},
            prompts={"source": ["a fox", "a cat", "<sd_cpp_extra_args>"]},
            params={"width": 64, "height": 64, "steps": 2, "seed": 7, "guidance_scale": 1.0},
            samples_per_prompt=2,
            output={"path": str(tmp_path / name)},
        )
        result = run(job)
        assert (result.exit_code, result.succeeded, result.failed) == (1, 4, 2)
        rows: list[dict[str, Any]] = pq.read_table(tmp_path / name / "manifest.parquet").to_pylist()
        return rows

    first, again = make_rows("one"), make_rows("two")

    settled = json.loads((tmp_path / "one/server.json").read_text())
    assert (settled["dialect"], settled["by"]) == ("sd_server", "server")
    done = [row for row in first if row["status"] == "ok"]
    assert len({row["pixel_sha256"] for row in done}) == 4
    assert [row["pixel_sha256"] for row in first] == [row["pixel_sha256"] for row in again]
    for row in done:
        assert json.loads(row["metadata_json"])["seed"] == row["seed"]
        assert (row["media_width"], row["media_height"]) == (64, 64)
    assert {row["error_kind"] for row in first if row["status"] != "ok"} == {"generation"}
