"""What is sent, by endpoint and model family, and what is made of the reply."""

from __future__ import annotations

import base64
import gc
import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from abstractvision_batch import VisionManager
from abstractvision_batch.backends import OpenAICompatibleBackendConfig, OpenAICompatibleVisionBackend
from abstractvision_batch.errors import CapabilityNotSupportedError, GenerationError, InvalidOutputError, SpecError
from abstractvision_batch.media.images import ImageFormat, decode_image, encode_image, to_rgb_array
from abstractvision_batch.media.video import decode_video
from abstractvision_batch.types import (
    GeneratedAsset,
    ImageEditRequest,
    ImageGenerationRequest,
    ImageToVideoRequest,
    MultiAngleRequest,
    VideoGenerationRequest,
)
from tests.support.openai_server import OpenAIServer, running_server

PIXEL = ImageGenerationRequest("a fox", seed=7)


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with running_server() as server:
        yield server


@pytest.fixture
def strict_server() -> Iterator[OpenAIServer]:
    with running_server(strict=True) as server:
        yield server


def backend_of(server: OpenAIServer, model: str | None = None, **settings: Any) -> OpenAICompatibleVisionBackend:
    settings.setdefault("request_shape", "auto")  # what runs of before there were dialects go on with
    return OpenAICompatibleVisionBackend(
        OpenAICompatibleBackendConfig(server.base_url, model_id=model, timeout_s=10, poll_interval_s=0.01, **settings)
    )


def picture(width: int = 32, height: int = 16, format: ImageFormat = "png") -> bytes:
    return encode_image(Image.new("RGB", (width, height), (200, 30, 30)), format)


def left_half(width: int = 32, height: int = 16) -> bytes:
    mask = Image.new("L", (width, height), 0)
    mask.paste(255, (0, 0, width // 2, height))
    return encode_image(mask, "png")


def test_size_is_sent_as_width_by_height(server: OpenAIServer) -> None:
    """Swapped sides go unnoticed on square images, so this one is not square."""
    with backend_of(server) as backend:
        asset = backend.generate_image(ImageGenerationRequest("a fox", width=64, height=32, seed=7))

    assert server.last.fields["size"] == "64x32"
    assert decode_image(asset.data).size == (64, 32)


def test_a_local_server_is_told_everything_that_the_request_says(server: OpenAIServer) -> None:
    request = ImageGenerationRequest("a fox", "blurry", 64, 32, seed=7, steps=4, guidance_scale=2.5)

    with backend_of(server, "sdxl") as backend:
        backend.generate_image(request)

    assert server.last.fields == {
        "prompt": "a fox",
        "n": 1,
        "model": "sdxl",
        "response_format": "b64_json",
        "size": "64x32",
        "width": 64,
        "height": 32,
        "negative_prompt": "blurry",
        "seed": 7,
        "steps": 4,
        "guidance_scale": 2.5,
    }


@pytest.mark.parametrize("model", ["gpt-image-2", "openai/gpt-image-2", "gpt-image-2.6-sunburst"])
def test_an_official_model_gets_the_official_fields_only(strict_server: OpenAIServer, model: str) -> None:
    request = ImageGenerationRequest("a fox", "blurry", 64, 32, seed=7, steps=4, extra={"quality": "low"})

    with backend_of(strict_server, model) as backend:
        asset = backend.generate_image(request)

    assert strict_server.last.fields == {"prompt": "a fox", "n": 1, "model": model, "size": "64x32", "quality": "low"}
    assert asset.metadata["not_sent"] == ["negative_prompt", "seed", "steps"]
    assert (asset.metadata["seed"], asset.metadata["reproducibility"]) == (None, "unseeded")


def test_chatgpt_image_is_of_the_same_family(strict_server: OpenAIServer) -> None:
    request = ImageGenerationRequest("a fox", extra={"response_format": "b64_json"})

    with backend_of(strict_server, "chatgpt-image-latest") as backend:
        backend.generate_image(request)

    assert "response_format" not in strict_server.last.fields


def test_dall_e_is_asked_for_base64() -> None:
    with running_server(strict=True) as server, backend_of(server, "dall-e-3") as backend:
        backend.generate_image(ImageGenerationRequest("a fox", seed=7))

    assert server.last.fields == {"prompt": "a fox", "n": 1, "model": "dall-e-3", "response_format": "b64_json"}


@pytest.mark.parametrize(
    ("base_url", "shape"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://eu.api.openai.com/v1", "openai"),
        ("https://mine.openai.azure.com/openai/v1", "openai"),
        ("https://api.openai.com.evil.example/v1", "extended_1"),
        ("http://127.0.0.1:8000/api.openai.com/v1", "extended_1"),
    ],
)
def test_the_host_and_not_a_word_in_the_url_makes_an_endpoint_official(base_url: str, shape: str) -> None:
    dialect = OpenAICompatibleBackendConfig(base_url, request_shape="auto").known_dialect

    assert dialect is not None
    assert dialect.name == shape


def test_a_server_may_have_its_own_names_and_its_own_size_format(server: OpenAIServer) -> None:
    names = {"steps": "num_inference_steps"}

    with backend_of(server, field_names=names, size_separator="*") as backend:
        backend.generate_image(ImageGenerationRequest("a fox", width=64, height=32, steps=3))

    assert server.last.fields["num_inference_steps"] == 3
    assert server.last.fields["size"] == "64*32"
    assert "steps" not in server.last.fields


def test_sd_server_finds_the_parameters_in_the_prompt(strict_server: OpenAIServer) -> None:
    with backend_of(strict_server, request_shape="sd_server") as backend:
        asset = backend.generate_image(ImageGenerationRequest("a fox", seed=7, steps=4, guidance_scale=1.5))

    prompt, _, rest = strict_server.last.fields["prompt"].partition("<sd_cpp_extra_args>")
    assert prompt == "a fox"
    assert json.loads(rest.removesuffix("</sd_cpp_extra_args>")) == {
        "seed": 7,
        "sample_params": {"sample_steps": 4, "guidance": {"txt_cfg": 1.5}},
    }
    assert asset.metadata["seed"] == 7
    assert "not_sent" not in asset.metadata


def test_extra_fields_reach_the_server_as_they_are(server: OpenAIServer) -> None:
    with backend_of(server) as backend, pytest.raises(GenerationError, match="Unknown parameter: 'sampler'"):
        backend.generate_image(ImageGenerationRequest("a fox", extra={"sampler": "euler"}))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"prompt": "x"}, "extra.prompt: cannot be set there"),
        ({"model": "x"}, "backend.served_model names it"),
        ({"stream": True}, "streamed replies are not read"),
        ({"n": 2}, r"2 images where one is kept \(in a job: samples_per_prompt; in Python: generate_images\)"),
        ({"n": "2"}, "'2' is not a number of images"),
        ({"n": 0}, "0 is not a number of images"),
    ],
)
def test_what_extra_cannot_mean_is_refused_before_it_costs(
    server: OpenAIServer, extra: dict[str, Any], message: str
) -> None:
    with backend_of(server) as backend, pytest.raises(GenerationError, match=message):
        backend.generate_image(ImageGenerationRequest("a fox", extra=extra))

    assert server.received == []


def test_half_a_size_is_refused_before_it_costs(server: OpenAIServer) -> None:
    with backend_of(server) as backend, pytest.raises(GenerationError, match="give both, or neither"):
        backend.generate_image(ImageGenerationRequest("a fox", width=64))

    assert server.received == []


def test_every_image_of_a_reply_is_kept(server: OpenAIServer) -> None:
    with backend_of(server) as backend:
        assets = backend.generate_images(ImageGenerationRequest("a fox", seed=7, width=32, height=32, extra={"n": 3}))

    assert server.last.fields["n"] == 3
    assert len({asset.data for asset in assets}) == 3


def test_images_that_nobody_asked_for_are_not_returned_silently(
    server: OpenAIServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.extra_images = 1
    with backend_of(server) as backend:
        backend.generate_image(PIXEL)

    assert "2 images in the reply where 1 were asked for" in caplog.text


@pytest.mark.parametrize("reply_as", ["b64_json", "url", "relative_url", "data_url", "bytes", "both"])
def test_every_form_of_reply_gives_the_same_image(server: OpenAIServer, reply_as: str) -> None:
    server.reply_as = reply_as
    with backend_of(server) as backend:
        asset = backend.generate_image(PIXEL)
        server.reply_as = "b64_json"
        assert asset.data == backend.generate_image(PIXEL).data


def test_a_null_image_without_url_is_an_error_and_not_an_empty_asset(server: OpenAIServer) -> None:
    server.reply_as = "null"
    with backend_of(server) as backend, pytest.raises(InvalidOutputError, match="neither b64_json nor url"):
        backend.generate_image(PIXEL)


@pytest.mark.parametrize(("image_format", "mime_type"), [("webp", "image/webp"), ("jpeg", "image/jpeg")])
@pytest.mark.parametrize("reply_as", ["b64_json", "url", "bytes"])
def test_the_mime_type_is_that_of_the_content(
    server: OpenAIServer, image_format: ImageFormat, mime_type: str, reply_as: str
) -> None:
    server.image_format, server.reply_as = image_format, reply_as
    with backend_of(server) as backend:
        assert backend.generate_image(PIXEL).mime_type == mime_type


def test_usage_and_revised_prompt_are_kept(server: OpenAIServer) -> None:
    with backend_of(server, "sdxl") as backend:
        metadata = backend.generate_image(PIXEL).metadata

    assert metadata["usage"]["total_tokens"] == 282
    assert metadata["revised_prompt"] == "a revised prompt"
    assert (metadata["source"], metadata["model"], metadata["attempts"]) == ("b64_json", "sdxl", 1)
    assert (metadata["seed"], metadata["reproducibility"]) == (7, "seeded-remote")


def test_the_url_in_the_metadata_has_lost_its_signature(server: OpenAIServer) -> None:
    server.reply_as = "url"
    with backend_of(server) as backend:
        metadata = backend.generate_image(PIXEL).metadata

    assert metadata["url"] == f"{server.url}/files/0"


def test_an_edit_is_a_form_with_the_image_as_it_is(server: OpenAIServer) -> None:
    image = picture(format="jpeg")

    with backend_of(server, "sdxl") as backend:
        backend.edit_image(ImageEditRequest("a fox", image, None, "blurry", seed=7, steps=4, strength=0.5))

    (file,) = server.last.files
    assert (file.name, file.filename, file.mime_type, file.content) == ("image", "image.jpg", "image/jpeg", image)
    assert server.last.fields == {
        "prompt": "a fox",
        "model": "sdxl",
        "negative_prompt": "blurry",
        "seed": 7,
        "steps": 4,
        "strength": 0.5,
    }


def test_an_official_edit_passes_the_official_rules(strict_server: OpenAIServer) -> None:
    request = ImageEditRequest("a fox", picture(), left_half(), seed=7, extra={"input_fidelity": "high"})

    with backend_of(strict_server, "gpt-image-1.5") as backend:
        backend.edit_image(request)

    assert [file.name for file in strict_server.last.files] == ["image[]", "mask"]
    assert strict_server.last.fields == {"prompt": "a fox", "model": "gpt-image-1.5", "input_fidelity": "high"}


def test_the_white_part_of_a_mask_is_what_changes(strict_server: OpenAIServer) -> None:
    """The server changes what is transparent; ours changes what is white."""
    with backend_of(strict_server, "gpt-image-2") as backend:
        asset = backend.edit_image(ImageEditRequest("a fox", picture(), left_half()))

    result, before = (to_rgb_array(decode_image(data)).astype(int) for data in (asset.data, picture()))
    assert np.array_equal(result[:, 16:], before[:, 16:])
    assert not np.array_equal(result[:, :16], before[:, :16])
    sent = Image.open(io.BytesIO(strict_server.last.files[1].content))
    assert np.asarray(sent.convert("L"))[0, :].tolist() == [255] * 16 + [0] * 16  # for servers that read the colour


def test_several_input_images_go_up_together(strict_server: OpenAIServer) -> None:
    second = picture(8, 8, "webp")
    third = base64.b64encode(picture(4, 4)).decode()

    with backend_of(strict_server, "gpt-image-2") as backend:
        backend.edit_image(ImageEditRequest("both", picture(), extra={"images": [second, third]}))

    files = strict_server.last.files
    assert [(file.name, file.mime_type) for file in files] == [
        ("image[]", "image/png"),
        ("image[]", "image/webp"),
        ("image[]", "image/png"),
    ]
    assert files[1].content == second


def test_an_input_image_that_servers_cannot_read_goes_up_as_png(server: OpenAIServer) -> None:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(out, "BMP")

    with backend_of(server) as backend:
        backend.edit_image(ImageEditRequest("a fox", out.getvalue()))

    assert server.last.files[0].mime_type == "image/png"


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (ImageEditRequest("a", picture(), left_half(16, 16)), "mask: is 16x16 where the input image is 32x16"),
        (ImageEditRequest("a", picture(), b"junk"), "mask: 4 bytes are not a readable image"),
        (ImageEditRequest("a", picture()[:60]), "input image: 60 bytes are not a readable image"),
        (ImageEditRequest("a", picture(), extra={"images": ["?"]}), r"extra.images\[0\]: is not base64"),
        (ImageEditRequest("a", picture(), extra={"images": [picture()] * 16}), "17 input images; a call takes 16"),
    ],
)
def test_a_bad_input_is_refused_before_it_is_sent(
    server: OpenAIServer, request_: ImageEditRequest, message: str
) -> None:
    with backend_of(server) as backend, pytest.raises(GenerationError, match=message):
        backend.edit_image(request_)

    assert server.received == []


def test_form_values_are_written_as_json_has_them() -> None:
    from abstractvision_batch.backends.openai_compatible.form import form_fields

    fields = {"a": True, "b": [1, "x"], "c": {"d": None}, "e": None, "f": 1.5, "g": "text"}

    assert list(form_fields(fields)) == [
        ("a", "true"),
        ("b[]", "1"),
        ("b[]", "x"),
        ("c", '{"d": null}'),
        ("f", "1.5"),
        ("g", "text"),
    ]


def test_a_video_by_its_own_path_is_one_call(server: OpenAIServer) -> None:
    request = VideoGenerationRequest("a fox", width=64, height=32, fps=4, num_frames=5, seed=7)

    with backend_of(server, text_to_video_path="/t2v") as backend:
        asset = backend.generate_video(request)

    assert (asset.media_type, asset.mime_type, len(list(decode_video(asset.data)))) == ("video", "video/mp4", 5)
    assert server.last.path == "/v1/t2v"
    assert server.last.fields == {
        "prompt": "a fox",
        "n": 1,
        "response_format": "b64_json",
        "width": 64,
        "height": 32,
        "fps": 4,
        "num_frames": 5,
        "seed": 7,
    }


@pytest.mark.parametrize("mode", ["multipart", "json_b64"])
def test_an_image_goes_to_a_video_path_as_a_file_or_as_base64(server: OpenAIServer, mode: str) -> None:
    request = ImageToVideoRequest(picture(), "a fox", num_frames=3, fps=3)

    with backend_of(server, image_to_video_path="/i2v", image_to_video_mode=mode) as backend:
        asset = backend.image_to_video(request)

    assert len(list(decode_video(asset.data))) == 3
    assert [file.content for file in server.last.files] == ([picture()] if mode == "multipart" else [])
    assert (server.last.fields.get("image_b64") is not None) == (mode == "json_b64")


def test_a_video_job_is_created_polled_and_downloaded(server: OpenAIServer) -> None:
    server.polls = 3
    with backend_of(server, "wan", video_mode="videos_api") as backend:
        asset = backend.image_to_video(ImageToVideoRequest(picture(), "a fox", num_frames=5, fps=4, seed=7))

    assert [one.path.rpartition("/")[2] for one in server.received[-1:]] == ["content"]
    assert len(server.received) == 1 + 3 + 1
    assert server.posts[0].files[0].name == "input_reference"
    assert server.posts[0].fields == {"prompt": "a fox", "model": "wan", "seed": 7, "num_frames": 5, "fps": 4}
    assert asset.metadata["job_id"].startswith("video_")
    assert len(list(decode_video(asset.data))) == 5


def test_an_official_video_job_counts_in_seconds(strict_server: OpenAIServer) -> None:
    request = VideoGenerationRequest("a fox", width=1280, height=720, fps=24, num_frames=96, seed=7)

    with backend_of(strict_server, "sora-2", video_mode="videos_api", request_shape="openai") as backend:
        asset = backend.generate_video(request)

    fields = {"prompt": "a fox", "model": "sora-2", "size": "1280x720", "seconds": "4"}
    assert strict_server.posts[0].fields == fields
    assert asset.metadata["not_sent"] == ["seed"]


def test_frames_that_are_no_whole_seconds_are_refused(server: OpenAIServer) -> None:
    request = VideoGenerationRequest("a fox", fps=24, num_frames=97)

    with (
        backend_of(server, video_mode="videos_api", request_shape="openai") as backend,
        pytest.raises(GenerationError, match=r"97 frames at 24 per second are 4\.04167 s"),
    ):
        backend.generate_video(request)


@pytest.mark.parametrize(
    "request_",
    [VideoGenerationRequest("a"), ImageToVideoRequest(picture()), MultiAngleRequest("a")],
    ids=lambda request: type(request).__name__,
)
def test_a_task_that_is_not_configured_is_refused_before_any_call(server: OpenAIServer, request_: Any) -> None:
    with (
        backend_of(server) as backend,
        pytest.raises(CapabilityNotSupportedError, match="configured for text_to_image, image_to_image"),
    ):
        backend.generate_batch([request_])

    assert server.received == []


def test_connections_are_used_again(server: OpenAIServer) -> None:
    with backend_of(server) as backend:
        for _ in range(5):
            backend.generate_image(PIXEL)

    assert len({one.port for one in server.received}) == 1


def test_a_backend_works_from_several_threads_and_under_a_running_loop(server: OpenAIServer) -> None:
    import asyncio

    async def call(backend: OpenAICompatibleVisionBackend) -> GeneratedAsset:
        return backend.generate_image(PIXEL)

    with backend_of(server) as backend:
        threads = [threading.Thread(target=backend.generate_image, args=(PIXEL,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert asyncio.run(call(backend)).mime_type == "image/png"
        for thread in threads:
            thread.join()

    assert len(server.posts) == 4


def test_a_forgotten_backend_leaves_no_thread(server: OpenAIServer) -> None:
    backend = backend_of(server)
    backend.generate_image(PIXEL)
    del backend
    gc.collect()

    assert "openai-backend" not in {thread.name for thread in threading.enumerate()}


def test_a_backend_that_is_never_closed_lets_its_process_end(server: OpenAIServer) -> None:
    code = (
        "from abstractvision_batch.backends import OpenAICompatibleBackendConfig, OpenAICompatibleVisionBackend\n"
        "from abstractvision_batch.types import ImageGenerationRequest\n"
        f"config = OpenAICompatibleBackendConfig({server.base_url!r})\n"
        "backend = OpenAICompatibleVisionBackend(config)\n"
        "print(backend.generate_image(ImageGenerationRequest('a fox')).mime_type)"
    )

    command = [sys.executable, "-W", "always::ResourceWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)

    assert (done.returncode, done.stdout, done.stderr) == (0, "image/png\n", "")


def test_the_manager_of_the_api_page_works_on_it(server: OpenAIServer) -> None:
    backend = OpenAICompatibleVisionBackend(config=OpenAICompatibleBackendConfig(base_url=server.base_url))
    with backend:
        asset = VisionManager(backend=backend).generate_image("an espresso machine", width=64, height=64, steps=2)

    assert isinstance(asset, GeneratedAsset)
    assert decode_image(asset.data).size == (64, 64)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_url": "localhost:1234/v1"}, "is no URL of a server"),
        ({"base_url": "file:///etc"}, "is no URL of a server"),
        ({"base_url": "http://me:secret@host/v1"}, "base_url of host holds credentials"),
        ({"base_url": "http://host:port/v1"}, "is no URL of a server"),
        ({"base_url": "http://host/v1", "timeout_s": 0}, "timeout_s is 0"),
    ],
)
def test_a_wrong_configuration_is_refused_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        OpenAICompatibleBackendConfig(**settings)

    assert "secret" not in str(caught.value)


def test_secrets_do_not_show_in_the_configuration() -> None:
    config = OpenAICompatibleBackendConfig("http://host/v1", "sk-secret", headers={"api-key": "secret"})

    assert "secret" not in repr(config)
