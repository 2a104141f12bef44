"""Replies that say in their own way what is wrong, or where the picture is: forms of the field, one row each."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from PIL import Image

from abstractvision_batch.backends import OpenAICompatibleBackendConfig, OpenAICompatibleVisionBackend, control_law
from abstractvision_batch.backends.base_backend import BatchItem
from abstractvision_batch.backends.openai_compatible import addresses, retries, transport
from abstractvision_batch.backends.openai_compatible.addresses import is_private_address
from abstractvision_batch.backends.openai_compatible.failures import KeyRefusedError, Reply, failure_of
from abstractvision_batch.backends.openai_compatible.replies import read_media
from abstractvision_batch.errors import (
    AbstractVisionError,
    BackendBusyError,
    DependencyError,
    GenerationError,
    InvalidOutputError,
    PolicyError,
)
from abstractvision_batch.media.images import encode_image
from abstractvision_batch.types import GeneratedAsset, ImageGenerationRequest, VisionRequest
from tests.support.openai_server import OpenAIServer, answers, error_body, redirects, refuses, resets, running_server

FOX = ImageGenerationRequest("a fox", width=16, height=16, seed=7)
KEY = "sk-test-0123456789abcdef"
PNG = encode_image(Image.new("RGB", (16, 16), "teal"), "png")
JPEG = encode_image(Image.new("RGB", (16, 16), "teal"), "jpeg")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "BACKOFF_S", 0.01)
    monkeypatch.setattr(control_law, "FIRST_PAUSE_S", 0.01)


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with running_server() as server:
        yield server


def backend_of(server: OpenAIServer, **settings: Any) -> OpenAICompatibleVisionBackend:
    return OpenAICompatibleVisionBackend(OpenAICompatibleBackendConfig(server.base_url, **{"timeout_s": 5, **settings}))


def foxes(count: int) -> list[VisionRequest]:
    return [ImageGenerationRequest(f"fox {number}", width=16, height=16, seed=number) for number in range(count)]


def end_of(backend: OpenAICompatibleVisionBackend, requests: Sequence[VisionRequest]) -> DependencyError:
    """What ended a batch: raised where no request of it has a result, else the item of the one that met it."""
    try:
        items: Sequence[BatchItem] = backend.generate_batch(requests)
    except DependencyError as error:
        return error
    return next(item for item in items if isinstance(item, DependencyError))


def verdict(status: int, body: Any) -> type[AbstractVisionError]:
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return type(failure_of(Reply(status, {}, data, "http://server/v1/images/generations")))


AZURE = {
    "error": {
        "code": "contentFilter",
        "message": "Your task failed as a result of our safety system.",
        "inner_error": {
            "code": "ResponsibleAIPolicyViolation",
            "content_filter_results": {"violence": {"filtered": True, "severity": "high"}},
        },
    }
}
OPENROUTER = {
    "error": {
        "code": 403,
        "message": "Your input was flagged",
        "metadata": {"reasons": ["violence"], "model_slug": "x"},
    }
}


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, AZURE),
        (400, {"error": {"code": None, "message": "No", "inner_error": AZURE["error"]["inner_error"]}}),
        (403, OPENROUTER),
        (400, {"error": {"message": "Your request was rejected as a result of our safety system.", "code": None}}),
        (400, {"error": {"message": "Request blocked by content policy", "type": "invalid_request_error"}}),
        (422, {"detail": "NSFW content detected"}),
        (403, {"detail": {"reason": "MODERATION", "msg": "x"}}),
        (451, "Unavailable For Legal Reasons"),
        (400, {"error": {"status": "INVALID_ARGUMENT", "details": [{"reason": "PROHIBITED_CONTENT"}], "message": "x"}}),
        (200, {"error": {"message": "The prompt violates our usage policies"}}),
        (400, {"message": "Prompt contains inappropriate words", "code": "bad_prompt"}),
    ],
)
def test_a_refused_prompt_is_policy_in_every_form_of_the_field(status: int, body: Any) -> None:
    assert verdict(status, body) is PolicyError


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (402, {"error": {"message": "Insufficient credits"}}),
        (402, "pay"),
        (403, {"error": {"message": "Insufficient balance, top up", "code": "x"}}),
        (429, {"error": {"message": "You exceeded your current quota, please check your plan", "code": None}}),
        (400, {"error": {"message": "Your credit balance is too low", "type": "invalid_request_error"}}),
        (403, {"error": {"message": "no", "code": "AccountSuspended"}}),
        (200, {"error": {"message": "no", "code": "insufficient_credits"}}),
    ],
)
def test_an_empty_account_is_no_fault_of_the_row_in_every_form_of_the_field(status: int, body: Any) -> None:
    assert verdict(status, body) is DependencyError


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (403, {"error": {"message": "Your organization was flagged; verify it"}}, KeyRefusedError),
        (403, {"error": {"message": "This API key lacks permission for moderation"}}, KeyRefusedError),
        (429, {"error": {"message": "moderation service is busy"}}, BackendBusyError),
        (400, {"error": {"message": "size is not supported", "type": "invalid_request_error"}}, GenerationError),
        (401, {"error": {"message": "Incorrect API key", "code": "invalid_api_key"}}, KeyRefusedError),
    ],
)
def test_what_is_about_the_caller_or_the_request_is_not_policy(
    status: int, body: Any, expected: type[AbstractVisionError]
) -> None:
    assert verdict(status, body) is expected


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "model overloaded", "code": 503}},
        {"error": {"message": "slow down", "code": "429"}},
        {"error": {"message": "x", "type": "overloaded_error"}},
        {"error": {"message": "x", "code": "rate_limit_exceeded"}},
        {"error": {"message": "CUDA out of memory"}},
        {"error": "The engine is overloaded, try again later"},
        {"detail": "Internal server error"},
        {"error": {"message": "x", "status": "RESOURCE_EXHAUSTED"}},
    ],
)
def test_an_error_inside_a_200_that_time_cures_is_tried_again(server: OpenAIServer, body: Any) -> None:
    server.misbehave(answers(200, body))

    with backend_of(server) as backend:
        assert backend.generate_image(FOX).mime_type == "image/png"

    assert len(server.posts) == 2


def test_an_error_inside_a_200_says_its_own_status(server: OpenAIServer) -> None:
    server.misbehave(answers(200, {"error": {"message": "no such size", "code": 422}}))

    with backend_of(server) as backend, pytest.raises(GenerationError, match="422: no such size"):
        backend.generate_image(FOX)


def test_one_unexplained_403_among_successes_is_one_row(server: OpenAIServer) -> None:
    server.api_key = KEY
    with backend_of(server, api_key=KEY, max_concurrency=1) as backend:
        first = backend.generate_batch(foxes(3))
        server.misbehave(refuses(403, "no"), refuses(401, "not this one"))
        items = backend.generate_batch(foxes(6))

    assert all(isinstance(item, GeneratedAsset) for item in first)
    failed = [item for item in items if isinstance(item, GenerationError)]
    assert [item.error_class for item in failed] == ["permanent", "permanent"]
    assert "the key works" in str(failed[0])
    assert len(items) - len(failed) == 4


def test_one_unexplained_403_before_the_first_picture_is_one_row_too(server: OpenAIServer) -> None:
    server.misbehave(refuses(403, "no"))
    with backend_of(server, api_key=KEY, max_concurrency=1) as backend:
        items = backend.generate_batch(foxes(4))

    assert [type(item).__name__ for item in items].count("GeneratedAsset") == 3


def test_a_key_that_is_refused_again_and_again_ends_the_batch(server: OpenAIServer) -> None:
    server.misbehave(*[refuses(403, "no")] * 40)
    with backend_of(server, api_key=KEY, max_concurrency=1) as backend:
        ended = end_of(backend, foxes(20))

    assert "the key may not do this" in str(ended)
    assert len(server.posts) <= 4


def test_a_key_that_was_revoked_on_the_way_ends_the_batch_at_once(server: OpenAIServer) -> None:
    with backend_of(server, api_key=KEY, max_concurrency=1) as backend:
        backend.generate_batch(foxes(2))
        server.api_key = "sk-another-key-of-the-server"
        ended = end_of(backend, foxes(9))

    assert "set the key" in str(ended)
    assert len(server.posts) < 8  # the two before, and what was sent while the key was asked about, of nine


# downloads of what a reply names


@pytest.mark.parametrize("status", [401, 403, 404, 410, 425, 500])
def test_a_link_that_fails_once_is_fetched_again(server: OpenAIServer, status: int) -> None:
    server.reply_as = "url"
    server.file_faults.append(refuses(status, "not yet"))

    with backend_of(server, api_key=KEY) as backend:
        assert backend.generate_image(FOX).mime_type == "image/png"

    assert len(server.posts) == 1


def test_a_link_that_answers_with_a_page_once_is_fetched_again(server: OpenAIServer) -> None:
    server.reply_as = "url"
    server.file_faults.extend([answers(200, "<Error><Code>AccessDenied</Code></Error>"), resets])

    with backend_of(server) as backend:
        assert backend.generate_image(FOX).mime_type == "image/png"


def test_a_foreign_hosts_403_is_a_row_that_may_be_tried_again_and_no_key_problem(server: OpenAIServer) -> None:
    with running_server() as other:
        other.file_faults.extend([refuses(403, "expired")] * 50)
        server.reply_as, server.files_from = "url", other.url
        with backend_of(server, api_key=KEY, retries=1) as backend:
            (item,) = backend.generate_batch([FOX])

    assert isinstance(item, BackendBusyError)
    assert item.transient
    assert "403" in str(item)
    assert "the file that the reply names" in str(item)


# where a picture is in a reply


def media(body: Any, path: str | None = None) -> list[Any]:
    found = read_media(Reply(200, {}, json.dumps(body).encode(), "http://server/v1/images/generations"), path=path)
    return [item.url or item.data for item in found]


ENCODED, ENCODED_JPEG = base64.b64encode(PNG).decode(), base64.b64encode(JPEG).decode()
LINK = "http://files/1.png"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"images": [{"url": LINK}]}, [LINK]),
        ({"images": [ENCODED, ENCODED_JPEG]}, [PNG, JPEG]),
        ({"output": [LINK, LINK]}, [LINK, LINK]),
        ({"output": LINK, "status": "succeeded"}, [LINK]),
        ({"artifacts": [{"base64": ENCODED, "finishReason": "SUCCESS", "seed": 3}]}, [PNG]),
        ({"data": [{"image_url": {"url": LINK}}]}, [LINK]),
        ({"result": {"sample": LINK}}, [LINK]),
        ({"image": ENCODED}, [PNG]),
        ({"data": [], "images": [{"b64_json": ENCODED}]}, [PNG]),
        ({"data": [{"url": "/files/1.png"}]}, ["http://server/files/1.png"]),
        ({"data": [{"b64_json": f"data:image/png;base64,{ENCODED}"}]}, [PNG]),
    ],
)
def test_a_picture_is_found_where_servers_of_the_field_have_it(body: Any, expected: Sequence[Any]) -> None:
    assert media(body) == expected


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("pictures[].link", {"pictures": [{"link": LINK}, {"link": LINK}]}),
        ("a.b[1].c[]", {"a": {"b": [0, {"c": [LINK, LINK]}]}}),
        ("reply.files[]", {"reply": {"files": [{"url": LINK}, {"url": LINK}]}}),
    ],
)
def test_a_place_may_be_named(path: str, body: Any) -> None:
    assert media(body, path) == [LINK, LINK]


def test_a_reply_without_a_picture_says_how_to_name_its_place() -> None:
    for body, path in (
        ({"output": []}, None),
        ({"data": [{"b64_json": ENCODED}]}, "images[].url"),
        ({"status": 1}, None),
    ):
        with pytest.raises(InvalidOutputError, match=r"backend\.reply_media"):
            media(body, path)


def test_a_key_that_the_server_repeats_is_nowhere_in_what_is_kept(server: OpenAIServer) -> None:
    server.api_key = KEY
    echo = f"you sent {KEY}, that is {base64.b64encode(KEY.encode()).decode()}"
    server.says = {"model": echo, "usage": {"total_tokens": 1, echo: [echo]}, "system_fingerprint": echo}

    with backend_of(server, api_key=KEY) as backend:
        asset = backend.generate_image(FOX)

    said = json.dumps(asset.metadata)
    assert KEY not in said
    assert base64.b64encode(KEY.encode()).decode() not in said
    assert asset.metadata["usage"]["total_tokens"] == 1


# addresses of this network


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1",
     "::1", "fe80::1%eth0", "fd00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "no"],
)  # fmt: skip
def test_an_address_of_this_machine_or_its_network_is_private(address: str) -> None:
    assert is_private_address(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_an_address_of_the_internet_is_not(address: str) -> None:
    assert not is_private_address(address)


@pytest.fixture
def public_server(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> OpenAIServer:
    """A server on this machine that is taken for one of the internet: its name resolves so."""
    genuine = addresses.resolve

    async def resolve(host: str) -> list[str]:
        return ["203.0.114.1"] if host == "localhost" else await genuine(host)

    monkeypatch.setattr(transport, "resolve", resolve)
    return server


def test_a_public_servers_reply_reaches_no_private_address(public_server: OpenAIServer) -> None:
    with running_server() as inside:
        public_server.reply_as, public_server.files_from = "url", inside.url
        config = OpenAICompatibleBackendConfig(f"http://localhost:{public_server.port}/v1", timeout_s=5)
        with OpenAICompatibleVisionBackend(config) as backend:
            (item,) = backend.generate_batch([FOX])
            public_server.files_from = ""
            public_server.file_faults.append(redirects(302, f"{inside.url}/secret"))
            (redirected,) = backend.generate_batch([FOX])

        assert inside.received == []
    for refused in (item, redirected):
        assert isinstance(refused, GenerationError)
        assert "127.0.0.1, an address of this network (backend.allow_private_urls" in str(refused)
        assert not refused.transient


def test_a_private_address_may_be_allowed_and_a_local_servers_files_are_its_own(public_server: OpenAIServer) -> None:
    with running_server() as inside:
        public_server.reply_as, public_server.files_from = "url", inside.url
        public = f"http://localhost:{public_server.port}/v1"
        for config in (
            OpenAICompatibleBackendConfig(public, timeout_s=5, allow_private_urls=True),
            OpenAICompatibleBackendConfig(public_server.base_url, timeout_s=5),
        ):
            inside.hosted.clear()
            with OpenAICompatibleVisionBackend(config) as backend:
                backend.generate_batch([FOX])

        assert len(inside.received) > 0


def test_an_error_of_a_batch_names_its_row_only(server: OpenAIServer) -> None:
    server.misbehave(answers(400, AZURE), refuses(402, "x", "content_policy_violation"))
    with backend_of(server, max_concurrency=1) as backend:
        ended = end_of(backend, foxes(3))
    assert "fix the account" in str(ended)

    server.misbehave(answers(400, AZURE), answers(200, error_body("busy", "server_overloaded")))
    with backend_of(server, max_concurrency=1) as backend:
        items = backend.generate_batch(foxes(3))

    assert [type(item).__name__ for item in items].count("PolicyError") == 1
    assert [type(item).__name__ for item in items].count("GeneratedAsset") == 2
