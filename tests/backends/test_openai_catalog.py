from __future__ import annotations

from typing import Any

import pytest

from abstractvision_batch import VisionManager
from abstractvision_batch.backends import OpenAICompatibleBackendConfig, OpenAICompatibleVisionBackend
from abstractvision_batch.backends.openai_compatible.catalog import read_catalog
from abstractvision_batch.backends.openai_compatible.failures import Reply
from abstractvision_batch.errors import AbstractVisionError, CapabilityNotSupportedError, InvalidOutputError
from tests.support.openai_server import running_server

LOCAL = OpenAICompatibleBackendConfig("http://127.0.0.1:1/v1")
OFFICIAL = OpenAICompatibleBackendConfig("https://api.openai.com/v1")


def ids_for(task: str | None, *entries: Any, config: OpenAICompatibleBackendConfig = LOCAL) -> list[str]:
    import json

    reply = Reply(200, {}, json.dumps({"object": "list", "data": entries}).encode(), "http://127.0.0.1:1/v1/models")
    return [model.id for model in read_catalog(reply, config, task=task)]


def test_a_catalog_is_read_over_http_and_through_the_manager() -> None:
    entry = {"id": "sdxl", "object": "model", "created": 3, "owned_by": "us", "tasks": ["text-to-image"]}
    with running_server(models=[entry]) as server:
        backend = OpenAICompatibleVisionBackend(OpenAICompatibleBackendConfig(server.base_url))
        with backend:
            (model,) = VisionManager(backend=backend).list_provider_models(task="text_to_image")

    assert (model.id, model.object, model.created, model.owned_by) == ("sdxl", "model", 3, "us")
    assert model.capabilities == ("text_to_image",)
    assert model.raw == entry


@pytest.mark.parametrize(
    "abilities",
    [
        {"tasks": ["text_to_image"]},
        {"capabilities": {"text-to-image": True}},
        {"capabilities": "image generation"},
        {"supported_endpoints": ["/v1/images/generations"]},
        {"modalities": {"output": ["image"]}},
    ],
)
def test_abilities_are_found_however_a_server_writes_them(abilities: dict[str, Any]) -> None:
    assert ids_for("text_to_image", {"id": "a", **abilities}) == ["a"]
    assert ids_for("text_to_video", {"id": "a", **abilities}) == []


def test_an_ability_that_is_denied_is_none() -> None:
    assert ids_for("text_to_image", {"id": "a", "tasks": {"text_to_image": False, "chat": True}}) == []


def test_a_local_model_that_says_nothing_is_kept_and_an_official_one_goes_by_its_family() -> None:
    entries = [{"id": name} for name in ("gpt-5", "gpt-image-2", "chatgpt-image-latest", "sora-2")]

    assert ids_for("text_to_image", *entries) == [entry["id"] for entry in entries]
    assert ids_for("text_to_image", *entries, config=OFFICIAL) == ["gpt-image-2", "chatgpt-image-latest"]
    assert ids_for("text_to_video", *entries, config=OFFICIAL) == ["sora-2"]
    assert ids_for(None, *entries, config=OFFICIAL) == [entry["id"] for entry in entries]


def test_odd_entries_are_read_or_left_out() -> None:
    assert ids_for(None, "a", {"name": "b"}, {"model": "c"}, {"id": 7}, None, 3) == ["a", "b", "c"]


def test_what_is_no_catalog_is_refused() -> None:
    for body in (b'{"data": {}}', b"{}", b"<html>", b"[]"):
        with pytest.raises(InvalidOutputError):
            read_catalog(Reply(200, {}, body, "http://x/v1/models"), LOCAL, task=None)
    with pytest.raises(CapabilityNotSupportedError, match="'painting' is no task"):
        ids_for("painting")


def test_a_server_without_catalog_says_so() -> None:
    with running_server() as server:
        config = OpenAICompatibleBackendConfig(server.base_url, models_path="/nowhere")
        with OpenAICompatibleVisionBackend(config) as backend, pytest.raises(AbstractVisionError, match="404"):
            backend.list_provider_models()
