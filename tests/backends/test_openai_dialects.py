"""Each parameter arrives under the name that a kind of server reads, or is refused; the server says of which kind."""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from abstractvision_batch.backends import (
    OpenAICompatibleBackendConfig,
    OpenAICompatibleVisionBackend,
    ProceduralVisionBackend,
)
from abstractvision_batch.backends.openai_compatible.dialects import DIALECT_NAMES, DIALECTS
from abstractvision_batch.errors import BackendBusyError, DependencyError, GenerationError, SpecError, StorageError
from abstractvision_batch.media.images import decode_image, encode_image, pixel_sha256
from abstractvision_batch.media.video import video_pixel_sha256
from abstractvision_batch.types import (
    GeneratedAsset,
    ImageEditRequest,
    ImageGenerationRequest,
    ImageToVideoRequest,
    VideoGenerationRequest,
)
from tests.support.dialect_server import KINDS, DialectServer, dialect_server, with_headers
from tests.support.openai_server import OpenAIServer, running_server

SERVERS = ("vllm_omni", "sglang", "localai", "xinference", "litellm")
FULL = ImageGenerationRequest("a fox", "a dog", 48, 32, seed=7, steps=5, guidance_scale=3.5)


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[DialectServer]:
    with dialect_server(request.param) as server:
        yield server


@pytest.fixture
def server_() -> Iterator[OpenAIServer]:
    with running_server() as server:
        yield server


def backend_of(server: DialectServer | OpenAIServer, **settings: Any) -> OpenAICompatibleVisionBackend:
    settings = {"model_id": "a-model", "timeout_s": 10, "retries": 0, "poll_interval_s": 0.01, **settings}
    return OpenAICompatibleVisionBackend(OpenAICompatibleBackendConfig(server.base_url, **settings))


def name_of(server: DialectServer) -> str:
    return next(name for name, kind in KINDS.items() if kind is server.kind)


def picture(width: int = 48, height: int = 32) -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(out, "PNG")
    return out.getvalue()


def half_mask(width: int = 48, height: int = 32) -> bytes:
    mask = Image.new("L", (width, height), 0)
    mask.paste(255, (0, 0, width // 2, height))
    return encode_image(mask, "png")


def digest(asset: GeneratedAsset) -> str:
    return pixel_sha256(decode_image(asset.data))


def readable(request: Any, dialect: str, task: Any) -> Any:
    """The request without what this kind of server ignores."""
    endpoint = DIALECTS[dialect].endpoint(task)
    assert endpoint is not None
    names = ("negative_prompt", "seed", "steps", "guidance_scale", "strength")
    return replace(request, **{name: None for name in names if hasattr(request, name) and not endpoint.reads(name)})


def test_every_dialect_is_in_the_documents() -> None:
    page = (Path(__file__).parents[2] / "docs/servers.md").read_text(encoding="utf-8")

    assert [name for name in DIALECT_NAMES if f"| `{name}` |" not in page] == []


def test_the_server_says_what_it_is(server: DialectServer) -> None:
    with backend_of(server) as backend:
        settled = backend.settle()

    assert (settled["dialect"], settled["by"]) == (name_of(server), "server")


@pytest.mark.parametrize("named", [False, True])
def test_every_parameter_that_a_server_reads_arrives(server: DialectServer, named: bool) -> None:
    dialect = name_of(server)
    request = readable(FULL, dialect, "text_to_image")

    with backend_of(server, **({"dialect": dialect} if named else {})) as backend:
        asset = backend.generate_image(request)

    assert digest(asset) == digest(ProceduralVisionBackend().generate_image(request))
    assert asset.mime_type == "image/png"
    assert "not_sent" not in asset.metadata
    assert "transport" not in asset.metadata


@pytest.mark.sampled(4)
@pytest.mark.parametrize("change", [{"seed": 8}, {"steps": 6}, {"guidance_scale": 4.0}, {"negative_prompt": "a cat"}])
def test_a_parameter_changes_the_picture_or_is_refused(server: DialectServer, change: dict[str, Any]) -> None:
    base = readable(FULL, name_of(server), "text_to_image")
    with backend_of(server) as backend:
        before = digest(backend.generate_image(base))
        item: Any
        posts = len(server.posts)
        (item,) = backend.generate_batch([replace(base, **change)])

    if isinstance(item, GenerationError):
        assert f"ignores {next(iter(change))} in text_to_image (leave it out" in str(item)
        assert len(server.posts) == posts
    else:
        assert digest(item) != before


@pytest.mark.parametrize("with_mask", [False, True])
def test_an_edit_arrives_whole_or_is_refused(server: DialectServer, with_mask: bool) -> None:
    request = readable(
        ImageEditRequest("a fox", picture(), None, "a dog", seed=7, steps=5, guidance_scale=3.5, strength=0.6),
        name_of(server),
        "image_to_image",
    )
    request = replace(request, mask=half_mask() if with_mask else None)
    with backend_of(server) as backend:
        if with_mask and DIALECTS[name_of(server)].edits.mask is None:
            with pytest.raises(GenerationError, match=r"ignores mask in image_to_image \(leave it out\)"):
                backend.edit_image(request)
            assert server.posts == []
        else:
            asset = backend.edit_image(request)
            assert digest(asset) == digest(ProceduralVisionBackend().edit_image(request))
            assert asset.metadata["seed"] == request.seed


@pytest.mark.parametrize("name", ["strength", "mask", "seed"])
def test_what_an_edit_would_drop_is_refused(server: DialectServer, name: str) -> None:
    value: Any = {"strength": 0.5, "mask": half_mask(), "seed": 7}[name]
    reads = DIALECTS[name_of(server)].edits.reads(name)
    with backend_of(server) as backend:
        request = ImageEditRequest("a fox", picture(), **{name: value})
        if reads:
            backend.edit_image(request)
            assert name in server.read[-1]
        else:
            with pytest.raises(GenerationError, match=f"ignores {name} in image_to_image"):
                backend.edit_image(request)


VIDEO = VideoGenerationRequest("a fox", "a dog", 48, 32, 4, 5, seed=7, steps=5, guidance_scale=3.5)


@pytest.mark.parametrize("kind", ["vllm_omni", "sglang", "localai", "litellm"])
@pytest.mark.parametrize("from_image", [False, True])
def test_a_video_arrives_whole(kind: str, from_image: bool) -> None:
    request: Any = VIDEO
    if from_image:
        given = {name: getattr(VIDEO, name) for name in ("prompt", "width", "height", "fps", "num_frames", "seed")}
        request = ImageToVideoRequest(picture(), **given)
    with dialect_server(kind) as server, backend_of(server, dialect=kind) as backend:
        make = backend.image_to_video if from_image else backend.generate_video
        asset = make(request)

    local = ProceduralVisionBackend()
    expected = local.image_to_video(request) if from_image else local.generate_video(request)
    assert video_pixel_sha256(asset.data) == video_pixel_sha256(expected.data)
    assert asset.metadata["seed"] == 7


def test_vllm_omni_has_jobs_too() -> None:
    with dialect_server("vllm_omni") as server, backend_of(server, video_mode="videos_api") as backend:
        backend.generate_video(VIDEO)

    assert [path for path, _ in server.posts] == ["/v1/videos"]


def test_qwen_image_is_guided_by_true_cfg_scale_on_vllm_omni() -> None:
    with dialect_server("vllm_omni") as server:
        with backend_of(server, card_id="Qwen/Qwen-Image-2512") as backend:
            backend.generate_image(FULL)
        with backend_of(server, card_id="Qwen/Qwen-Image-2512", field_names={"guidance_scale": "gs"}) as backend:
            backend.generate_image(FULL)

    (_, by_default), (_, renamed) = server.posts
    assert (by_default["true_cfg_scale"], "guidance_scale" in by_default) == (3.5, False)
    assert (renamed["gs"], "true_cfg_scale" in renamed) == (3.5, False)


@pytest.mark.parametrize(
    ("kind", "extra", "message"),
    [
        (
            "vllm_omni",
            {"cfg_scale": 3},
            r"extra.cfg_scale: vLLM-Omni ignores it, .*backend.known_fields: \[cfg_scale\]",
        ),
        ("sglang", {"num_inference_steps": 9}, "is this server's field of steps"),
        ("localai", {"sampler": "euler"}, "LocalAI ignores it"),
        ("xinference", {"bogus": 1}, "Xinference ignores it"),
    ],
)
def test_an_extra_field_that_a_server_would_drop_is_refused(kind: str, extra: dict[str, Any], message: str) -> None:
    with dialect_server(kind) as server, backend_of(server) as backend:
        with pytest.raises(GenerationError, match=message):
            backend.generate_image(ImageGenerationRequest("a fox", extra=extra))
        assert server.posts == []


def test_an_engine_s_own_fields_and_those_that_the_user_vouches_for_are_sent() -> None:
    extra = {"lora": {"name": "ghibli", "path": "/l", "scale": 0.5}, "true_cfg_scale": 4.0, "new_field": 1}
    with dialect_server("vllm_omni") as server, backend_of(server, known_fields=("new_field",)) as backend:
        backend.generate_image(ImageGenerationRequest("a fox", extra=extra))

    assert server.posts[0][1].items() >= extra.items()


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("vllm_omni", {"steps": 201}, "steps: 201 where vLLM-Omni takes 1 to 200"),
        ("vllm_omni", {"guidance_scale": 25.0}, "guidance_scale: 25.0 where vLLM-Omni takes 0 to 20"),
        ("localai", {"seed": 2**31}, "seed: 2147483648 where LocalAI takes 0 to 2147483647"),
        ("localai", {"prompt": "a fox | a dog"}, "prompt: LocalAI reads what follows '|' as another prompt"),
        ("localai", {"negative_prompt": "a|b"}, "negative_prompt: LocalAI reads what follows '|'"),
    ],
)
def test_what_a_server_would_cut_down_or_misread_is_refused(kind: str, change: dict[str, Any], message: str) -> None:
    with dialect_server(kind) as server, backend_of(server) as backend:
        with pytest.raises(GenerationError, match=message.replace("|", r"\|")):
            backend.generate_image(replace(readable(FULL, kind, "text_to_image"), **change))
        assert server.posts == []


def test_a_server_of_no_known_kind_is_spoken_to_as_before_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with dialect_server("unknown") as server, backend_of(server) as backend:
        for _ in range(2):
            asset = backend.generate_image(FULL)

    assert digest(asset) == digest(ProceduralVisionBackend().generate_image(FULL))
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "is told steps, guidance_scale, negative_prompt, seed" in record.message
    assert "backend.dialect" in record.message


def test_the_version_of_a_server_is_in_the_environment() -> None:
    with dialect_server("vllm_omni") as server, backend_of(server) as backend:
        backend.preload()
        environment = backend.environment()

    assert environment["dialect"] == "vllm_omni"
    assert environment["server"] == {"version": "0.30.0", "model_root": "/models/a"}


def test_litellm_is_known_by_its_headers_too() -> None:
    with dialect_server("unknown") as server, backend_of(server) as backend:
        server.kind = with_headers("unknown", x_litellm_version="1.108.7")
        assert backend.settle()["dialect"] == "litellm"


def test_an_openai_model_behind_any_server_is_spoken_to_as_openai_has_it() -> None:
    with dialect_server("litellm") as server, backend_of(server, model_id="openai/gpt-image-2") as backend:
        asset = backend.generate_image(ImageGenerationRequest("a fox", seed=7, steps=4))

    assert set(server.posts[0][1]) == {"prompt", "n", "model"}
    assert asset.metadata["not_sent"] == ["seed", "steps"]


def test_what_nobody_asked_for_is_left_out_and_noted() -> None:
    """A card's default strength, and a seed that was derived because every row has one."""
    request = ImageEditRequest("a fox", picture(), seed=7, strength=0.6, extra={"max_sequence_length": 512})
    unasked = {"seed": None, "strength": 0.6, "max_sequence_length": 512}
    with dialect_server("xinference") as server, backend_of(server) as backend:
        backend.settle(unasked=unasked)
        asset = backend.edit_image(request)
        with pytest.raises(GenerationError, match="ignores strength"):
            backend.edit_image(replace(request, strength=0.7))

    assert asset.metadata["not_sent"] == ["seed", "strength", "max_sequence_length"]
    assert (asset.metadata["seed"], asset.metadata["reproducibility"]) == (None, "unseeded")


def test_a_server_that_became_another_is_not_spoken_to_on() -> None:
    with dialect_server("vllm_omni") as server:
        with backend_of(server) as backend:
            settled = backend.settle()
        server.become("sglang")
        with backend_of(server) as backend:
            with pytest.raises(DependencyError, match="began at vLLM-Omni, and this is SGLang now"):
                backend.settle(settled)
            assert server.posts == []


def test_another_model_under_the_same_name_is_noticed() -> None:
    with dialect_server("vllm_omni") as server:
        with backend_of(server) as backend:
            settled = backend.settle()
        settled["says"]["model_root"] = "/models/b"
        with backend_of(server) as backend, pytest.raises(DependencyError, match=r"/models/b, and the server has"):
            backend.settle(settled)


def test_what_a_run_folder_says_of_its_server_is_shown_without_control_characters() -> None:
    with dialect_server("vllm_omni") as server, backend_of(server) as backend:
        settled = {**backend.settle(), "says": {"model_root": "\x1b[2J/models/b"}}
        with pytest.raises(DependencyError) as caught:
            backend.settle(settled)
        with pytest.raises(StorageError, match="is not known here"):
            backend.settle({**settled, "dialect": "../evil"})

    assert "\x1b" not in str(caught.value)


def test_a_run_that_began_unrecognised_goes_on_so() -> None:
    with dialect_server("unknown") as server:
        with backend_of(server) as backend:
            settled = backend.settle()
        server.become("sglang")
        with backend_of(server) as backend:
            assert backend.settle(settled)["dialect"] == "extended"


def test_a_named_dialect_wins_over_what_the_server_says(caplog: pytest.LogCaptureFixture) -> None:
    with dialect_server("litellm") as server, backend_of(server, dialect="vllm_omni") as backend:
        assert backend.settle()["dialect"] == "vllm_omni"

    with dialect_server("sglang") as server, backend_of(server, dialect="vllm_omni") as backend:
        backend.settle()
    assert "says that it is SGLang, and is spoken to as vLLM-Omni" in caplog.text


def test_an_unknown_dialect_is_refused_at_once() -> None:
    with pytest.raises(SpecError, match=r"dialect 'vllm-omni' is unknown \(did you mean vllm_omni\?\)"):
        OpenAICompatibleBackendConfig("http://host/v1", dialect="vllm-omni")


@pytest.mark.parametrize(
    ("settings", "noted"),
    [
        ({"size": "64x64"}, {"size": {"asked": "48x32", "received": "64x64"}}),
        ({"image_format": "jpeg"}, {"type": {"asked": "image/png", "received": "image/jpeg"}}),
    ],
)
def test_a_reply_of_another_size_or_type_than_asked_is_noted(settings: dict[str, Any], noted: dict[str, Any]) -> None:
    with dialect_server("vllm_omni", **settings) as server, backend_of(server) as backend:
        assert backend.generate_image(FULL).metadata["transport"] == noted


def test_a_jpeg_that_nobody_asked_for_is_noted_and_one_that_was_is_not() -> None:
    with dialect_server("unknown", image_format="jpeg") as server, backend_of(server) as backend:
        unasked = backend.generate_image(FULL)
        asked = backend.generate_image(replace(FULL, extra={"output_format": "jpeg"}))

    assert unasked.metadata["transport"] == {"type": {"asked": None, "received": "image/jpeg"}}
    assert "transport" not in asked.metadata


@pytest.mark.parametrize("where", ["url", "data"])
def test_a_job_without_content_gives_its_video_by_its_record(where: str) -> None:
    with dialect_server("sglang", content_status=404) as server, backend_of(server, dialect="sglang") as backend:
        video = ProceduralVisionBackend().generate_video(VIDEO).data
        server.hosted["/files/video"] = video
        item = {"url": f"{server.url}/files/video"}
        server.job = item if where == "url" else {"data": [item]}
        asset = backend.generate_video(VIDEO)

    assert asset.data == video


@pytest.mark.parametrize(
    "error",
    [
        {"code": "500", "message": "CUDA out of memory. Tried to allocate 2.00 GiB"},
        {"code": "InternalServerError", "message": "something went wrong"},
        {"code": 503, "message": "engine is dead"},
        "torch.OutOfMemoryError: HIP out of memory",
    ],
    ids=str,
)
def test_a_job_that_failed_by_the_server_s_fault_is_tried_again(server_: OpenAIServer, error: Any) -> None:
    server_.job_failure = error
    with backend_of(server_, dialect="litellm") as backend, pytest.raises(BackendBusyError):
        backend.generate_video(VIDEO)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"code": "content_policy_violation", "message": "refused"}, "policy"),
        ({"code": "invalid_value", "message": "num_frames must be 4k+1"}, "generation"),
    ],
)
def test_a_job_that_failed_by_its_request_is_not(server_: OpenAIServer, error: Any, kind: str) -> None:
    server_.job_failure = error
    with backend_of(server_, dialect="litellm") as backend, pytest.raises(GenerationError) as caught:
        backend.generate_video(VIDEO)

    assert (caught.value.error_kind, len(server_.posts)) == (kind, 1)


def test_a_job_that_the_server_forgot_is_created_again(server_: OpenAIServer) -> None:
    def restart() -> None:
        while not server_.jobs:
            time.sleep(0.01)
        server_.jobs.clear()
        server_.polls = 1

    server_.polls = 10**9
    with backend_of(server_, dialect="litellm", retries=1) as backend:
        threading.Thread(target=restart, daemon=True).start()
        asset = backend.generate_video(VIDEO)

    assert (len(server_.posts), asset.metadata["attempts"]) == (2, 2)
