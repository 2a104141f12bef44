"""A server that refuses, breaks, hangs or lies: each is one clear error, soon, and never a lost neighbour."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from abstractvision_batch.backends import OpenAICompatibleBackendConfig, OpenAICompatibleVisionBackend, control_law
from abstractvision_batch.backends.openai_compatible import retries
from abstractvision_batch.backends.openai_compatible.failures import (
    KeyRefusedError,
    quote_body,
    redact,
    retry_after_s,
)
from abstractvision_batch.errors import (
    AbstractVisionError,
    BackendBusyError,
    DependencyError,
    GenerationError,
    InvalidOutputError,
    PolicyError,
)
from abstractvision_batch.types import GeneratedAsset, ImageGenerationRequest, VideoGenerationRequest, VisionRequest
from tests.support.openai_server import (
    Fault,
    OpenAIServer,
    announces,
    answers,
    error_body,
    half_a_json,
    hangs,
    never_ends,
    redirects,
    refuses,
    resets,
    running_server,
    trickles,
)

KEY = "sk-test-0123456789abcdef"
FOX = ImageGenerationRequest("a fox", width=16, height=16, seed=7)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "BACKOFF_S", 0.01)
    monkeypatch.setattr(control_law, "FIRST_PAUSE_S", 0.01)


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with running_server() as server:
        yield server


def backend_of(server: OpenAIServer, **settings: Any) -> OpenAICompatibleVisionBackend:
    return OpenAICompatibleVisionBackend(
        OpenAICompatibleBackendConfig(server.base_url, **{"timeout_s": 5, "poll_interval_s": 0.01, **settings})
    )


def failure(server: OpenAIServer, *faults: Fault, **settings: Any) -> AbstractVisionError:
    server.misbehave(*faults)
    with backend_of(server, **settings) as backend, pytest.raises(AbstractVisionError) as caught:
        backend.generate_image(FOX)
    return caught.value


@pytest.mark.parametrize(
    "fault",
    [
        refuses(429, "slow down", "rate_limit_exceeded", Retry_After="0.05"),
        refuses(429, "slow down", "rate_limit_exceeded", retry_after_ms="20"),
        refuses(429, "slow down"),
        refuses(500, "oops"),
        refuses(502, "bad gateway"),
        refuses(503, "overloaded"),
        refuses(408, "timeout"),
        answers(504, "<html>gateway timeout</html>"),
        refuses(400, "try that again", x_should_retry="true"),
        resets,
    ],
)
def test_what_passes_is_tried_again_and_counted(server: OpenAIServer, fault: Fault) -> None:
    server.misbehave(fault, fault)
    with backend_of(server) as backend:
        asset = backend.generate_image(FOX)

    assert len(server.posts) == 3
    assert asset.metadata["attempts"] == 3
    assert asset.metadata["ambiguous_retries"] == (2 if fault is resets else 0)


def test_every_attempt_carries_the_same_idempotency_key_and_every_request_another(server: OpenAIServer) -> None:
    server.misbehave(refuses(500, "oops"))
    with backend_of(server) as backend:
        backend.generate_image(FOX)
        backend.generate_image(FOX)

    first, again, other = (post.headers["idempotency-key"] for post in server.posts)
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [("0.3", 0.3, 0.8), (format_datetime(datetime.now(UTC) + timedelta(seconds=1), usegmt=True), 0.0, 1.5)],
    ids=["seconds", "date"],
)
def test_the_server_says_how_long_to_wait(server: OpenAIServer, value: str, low: float, high: float) -> None:
    server.misbehave(refuses(429, "slow down", Retry_After=value))
    with backend_of(server) as backend:
        backend.generate_image(FOX)

    first, second = server.posts
    assert low <= second.at - first.at < high


def test_retry_after_is_read_in_every_form() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    date = format_datetime(now + timedelta(seconds=90), usegmt=True)

    def read(**headers: str) -> float | None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return retry_after_s(named, now=now.timestamp())

    assert read(retry_after="7") == 7
    assert read(retry_after="0.25") == 0.25
    assert read(retry_after="7", retry_after_ms="1500") == 1.5
    assert read(retry_after=date) == 90
    assert read(retry_after=format_datetime(now - timedelta(days=1), usegmt=True)) == 0
    for nonsense in ("", "soon", "-1", "nan", "inf", "1e999"):
        assert read(retry_after=nonsense) is None
    assert read() is None


def test_too_long_a_wait_is_not_waited(server: OpenAIServer) -> None:
    started = time.monotonic()

    error = failure(server, refuses(429, "come back tomorrow", Retry_After="86400"))

    assert isinstance(error, BackendBusyError)
    assert "it asks to wait 86400 s" in str(error)
    assert time.monotonic() - started < 30


def test_a_wait_beyond_the_deadline_is_not_begun(server: OpenAIServer) -> None:
    started = time.monotonic()

    error = failure(server, refuses(429, "slow down", Retry_After="3"), timeout_s=1.0)

    assert isinstance(error, BackendBusyError)
    assert time.monotonic() - started < 2.9


def test_retries_end_and_the_error_may_be_retried_by_the_job(server: OpenAIServer) -> None:
    error = failure(server, *[refuses(500, "oops")] * 3, retries=2)

    assert isinstance(error, BackendBusyError)
    assert error.transient
    assert "500: oops (after 3 attempts)" in str(error)
    assert len(server.posts) == 3


def test_a_server_may_forbid_another_attempt(server: OpenAIServer) -> None:
    failure(server, refuses(500, "do not", x_should_retry="false"))

    assert len(server.posts) == 1


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        (refuses(400, "bad size", "invalid_value"), GenerationError, "400: bad size"),
        (refuses(404, "no such path"), GenerationError, "404: no such path (is backend.base_url right"),
        (answers(404, {"detail": "Not Found"}), GenerationError, "404: Not Found"),
        (answers(422, {"detail": [{"loc": ["body", "n"], "msg": "wrong"}]}), GenerationError, '"msg": "wrong"'),
        (refuses(413, "too large"), GenerationError, "413: too large"),
        (refuses(501, "no such thing"), GenerationError, "501: no such thing"),
        (answers(400, "plain words"), GenerationError, "400: plain words"),
        (refuses(401, "wrong key", "invalid_api_key"), DependencyError, "export OPENAI_API_KEY=…"),
        (refuses(403, "not yours"), GenerationError, "403: not yours (the key may not do this"),
        (refuses(429, "pay first", "insufficient_quota"), DependencyError, "fix the account"),
        (refuses(400, "limit", "billing_hard_limit_reached"), DependencyError, "fix the account"),
        (refuses(404, "no model x", "model_not_found"), DependencyError, "backend.served_model"),
        (refuses(400, "no", "content_policy_violation"), PolicyError, "400: no"),
        (refuses(400, "no", "moderation_blocked"), PolicyError, "400: no"),
        (refuses(403, "no", "content_filter"), PolicyError, "403: no"),
        (answers(200, "<html><title>Login</title></html>"), InvalidOutputError, "a web page: <html><title>Login"),
        (half_a_json, InvalidOutputError, "bytes that are not JSON"),
        (answers(200, ""), InvalidOutputError, "0 bytes that are not JSON"),
        (answers(200, [1]), InvalidOutputError, "no object"),
        (answers(200, {"data": []}), InvalidOutputError, "neither b64_json nor url"),
        (answers(200, {"data": ["x", None]}), InvalidOutputError, "neither b64_json nor url"),
        (answers(200, {"data": {"b64_json": 7}}), InvalidOutputError, "neither b64_json nor url"),
        (answers(200, {"data": [{"b64_json": "!!!"}]}), InvalidOutputError, "is not base64"),
        (answers(200, {"data": [{"b64_json": "AAAA"}]}), InvalidOutputError, "3 bytes of no known type where image"),
        (answers(200, error_body("no", "content_policy_violation")), PolicyError, "no"),
        (answers(200, error_body("broken", None)), GenerationError, "broken"),
        (answers(304, ""), GenerationError, "304"),
        (redirects(302, "http://127.0.0.1:1/login"), GenerationError, "redirected to http://127.0.0.1:1/login"),
        (redirects(308, "http://127.0.0.1:1/v1/images"), GenerationError, "correct backend.base_url"),
    ],
)
def test_what_does_not_pass_is_one_clear_error_at_once(
    server: OpenAIServer, fault: Fault, kind: type[AbstractVisionError], message: str
) -> None:
    error = failure(server, fault)

    assert type(error) in (kind, KeyRefusedError if kind is DependencyError else kind)
    assert message in str(error)
    assert server.url in str(error) or "/images/generations" in str(error)
    assert len(server.posts) == 1
    assert len(str(error)) < 700


def test_half_a_picture_is_an_error(server: OpenAIServer) -> None:
    with backend_of(server) as backend:
        whole = backend.generate_image(FOX).data
    half = base64.b64encode(whole[: len(whole) // 2]).decode()

    error = failure(server, answers(200, {"data": [{"b64_json": half}]}))

    assert type(error) is InvalidOutputError
    assert "not a readable image" in str(error)


@pytest.mark.parametrize("fault", [hangs, trickles], ids=["hangs", "trickles"])
def test_a_timeout_holds_whatever_the_server_does(server: OpenAIServer, fault: Fault) -> None:
    started = time.monotonic()

    error = failure(server, fault, timeout_s=0.2)

    assert isinstance(error, BackendBusyError)
    assert "no result within 0.2 s and 1 attempt (backend.timeout_s)" in str(error)
    assert time.monotonic() - started < 20


def test_ten_gigabytes_are_not_read(server: OpenAIServer) -> None:
    error = failure(server, announces(10 * 10**9))

    assert type(error) is InvalidOutputError
    assert "the reply is 10000000000 bytes; more than 268435456 are not read" in str(error)


def test_a_body_without_end_is_left_at_the_limit(server: OpenAIServer) -> None:
    error = failure(server, never_ends, max_response_bytes=1_000_000)

    assert type(error) is InvalidOutputError
    assert "over 1000000 bytes" in str(error)


def test_a_huge_error_body_is_quoted_and_not_read_on(server: OpenAIServer) -> None:
    error = failure(server, answers(400, "x y " * 1_000_000))

    assert "400: x y x y" in str(error)
    assert len(str(error)) < 500


def test_a_server_that_is_not_there_is_busy_and_says_where(server: OpenAIServer) -> None:
    config = OpenAICompatibleBackendConfig("http://127.0.0.1:9/v1", retries=1)
    with OpenAICompatibleVisionBackend(config) as backend:
        with pytest.raises(BackendBusyError, match=r"127\.0\.0\.1:9/v1/models.*is the server running"):
            backend.generate_image(FOX)
        with pytest.raises(DependencyError, match=r"start it, or correct backend\.base_url"):
            backend.preload()


def test_a_proxy_of_the_environment_does_not_stand_before_a_local_server(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    with backend_of(server) as backend:
        assert backend.generate_image(FOX).metadata["attempts"] == 1


def test_preloading_finds_a_wrong_key_and_tolerates_a_server_without_catalog(server: OpenAIServer) -> None:
    with backend_of(server) as backend:
        backend.preload()
        server.models = []
        backend.preload()
    server.api_key = KEY
    with backend_of(server) as backend, pytest.raises(DependencyError, match="401"):
        backend.preload()
    with backend_of(server, models_path="/nowhere", api_key=KEY) as backend:
        backend.preload()


def test_preloading_warns_of_a_model_that_is_missing_or_ends_soon(
    server: OpenAIServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.models = [{"id": "old", "shutdown_date": "2026-12-01"}]
    for model in ("old", "new"):
        with backend_of(server, model_id=model) as backend:
            backend.preload()

    assert "old shuts down on 2026-12-01" in caplog.text
    assert "does not list new: old" in caplog.text


def test_secrets_never_show_in_an_error(server: OpenAIServer) -> None:
    said = f"no: Authorization: Bearer {KEY} and header-secret and sk-proj-someoneelses0123"

    error = failure(server, refuses(400, said), api_key=KEY, headers={"X-Gateway": "header-secret"})

    assert "secret" not in str(error)
    assert "sk-" not in str(error)
    assert server.last.headers["authorization"] == f"Bearer {KEY}"
    assert server.last.headers["x-gateway"] == "header-secret"


def test_quotes_are_short_printable_and_on_one_line() -> None:
    assert quote_body(b"a\r\n\tb\x00\x1b[31mc\xff") == "a b [31mc\ufffd"
    assert len(redact("word " * 1000)) == 300
    assert redact("before " + "QUJD" * 100 + " after") == "before … after"


def test_a_reply_cannot_make_the_client_read_its_own_files(server: OpenAIServer) -> None:
    for url in ("file:///etc/hostname", "ftp://127.0.0.1/x", "gopher://x", "http://[bad", "javascript:alert(1)"):
        error = failure(server, answers(200, {"data": [{"url": url}]}))
        assert isinstance(error, GenerationError), url
        assert "neither http nor https" in str(error) or "no URL" in str(error)


def test_a_redirect_cannot_make_the_client_read_its_own_files(server: OpenAIServer) -> None:
    server.reply_as = "url"
    server.file_faults.append(redirects(302, "file:///etc/hostname"))

    assert "neither http nor https" in str(failure(server))


def test_credentials_stay_with_their_own_server(server: OpenAIServer) -> None:
    with running_server() as other:
        content = other.host(b"")
        server.api_key, server.reply_as, server.files_from = KEY, "url", other.url
        with (
            backend_of(server, api_key=KEY, headers={"X-Gateway": "secret"}) as backend,
            pytest.raises(GenerationError),
        ):
            backend.generate_image(FOX)
        server.files_from = ""
        server.file_faults.extend([redirects(307, f"{other.url}{content}")] * 20)
        with backend_of(server, api_key=KEY) as backend, pytest.raises(GenerationError):
            backend.generate_image(FOX)

        assert len(other.received) > 1
        for one in other.received:
            assert "authorization" not in one.headers
            assert "x-gateway" not in one.headers
    assert server.received[-1].headers["authorization"] == f"Bearer {KEY}"  # its own files are as private as its API


def test_a_download_is_repeated_without_generating_again(server: OpenAIServer) -> None:
    server.reply_as = "url"
    server.file_faults.extend([refuses(503, "later"), resets])
    with backend_of(server) as backend:
        assert backend.generate_image(FOX).mime_type == "image/png"

    assert len(server.posts) == 1


def test_a_download_that_fails_for_good_does_not_generate_again(server: OpenAIServer) -> None:
    server.reply_as = "url"
    server.file_faults.extend([refuses(500, "gone")] * 3)

    error = failure(server, retries=2)

    assert isinstance(error, BackendBusyError)
    assert len(server.posts) == 1


def test_redirects_without_end_are_left(server: OpenAIServer) -> None:
    server.reply_as = "url"
    server.file_faults.extend([redirects(302, "/files/0")] * 10)

    assert "more than 5 redirects" in str(failure(server))


def test_a_redirect_on_the_same_server_is_followed_with_the_prompt(server: OpenAIServer) -> None:
    server.misbehave(redirects(307, "/v1/images/generations"))
    with backend_of(server) as backend:
        backend.generate_image(FOX)

    assert [post.fields["prompt"] for post in server.posts] == ["a fox", "a fox"]


def test_a_fault_is_one_row_and_leaves_its_neighbours(server: OpenAIServer) -> None:
    bad: list[Fault] = [
        refuses(400, "no", "content_policy_violation"),
        half_a_json,
        answers(200, "<html>"),
        refuses(500, "x", x_should_retry="false"),
        announces(10**10),
    ]
    server.misbehave(*bad)
    requests: list[VisionRequest] = [
        ImageGenerationRequest(f"a fox {n}", width=16, height=16, seed=n) for n in range(12)
    ]
    with backend_of(server) as backend:
        items = backend.generate_batch(requests)

    assert sum(isinstance(item, GeneratedAsset) for item in items) == 7
    kinds = sorted(item.error_kind for item in items if isinstance(item, GenerationError))
    assert kinds == ["busy", "invalid_output", "invalid_output", "invalid_output", "policy"]


def test_a_wrong_key_ends_the_batch_instead_of_failing_every_row(server: OpenAIServer) -> None:
    server.api_key = KEY
    requests: list[VisionRequest] = [FOX] * 20
    with (
        backend_of(server, api_key="sk-wrong-key-0000", max_concurrency=2) as backend,
        pytest.raises(DependencyError) as caught,
    ):
        backend.generate_batch(requests)

    assert "sk-wrong" not in str(caught.value)
    assert len(server.posts) < 10


def test_cancelling_ends_a_hanging_batch_and_keeps_what_is_done(server: OpenAIServer) -> None:
    server.misbehave(hangs, hangs)

    def two_are_done() -> bool:
        return len(server.answered_at) == 2 and time.monotonic() - server.answered_at[-1] > 0.2

    started = time.monotonic()
    with backend_of(server, timeout_s=60) as backend:
        items = backend.generate_batch([FOX] * 4, cancelled=two_are_done)

    assert time.monotonic() - started < 20
    assert sorted(type(item).__name__ for item in items) == ["GeneratedAsset"] * 2 + ["GenerationCancelledError"] * 2


def test_a_failed_video_job_says_why(server: OpenAIServer) -> None:
    server.job_failure = {"code": "internal", "message": "the decoder broke"}
    with backend_of(server, video_mode="videos_api") as backend:
        with pytest.raises(GenerationError, match="the decoder broke"):
            backend.generate_video(VideoGenerationRequest("a fox"))
        server.job_failure = {"code": "moderation_blocked", "message": "not this"}
        with pytest.raises(PolicyError, match="not this"):
            backend.generate_video(VideoGenerationRequest("a fox"))

    assert len(server.posts) == 2


def test_a_video_job_that_never_ends_is_left_at_the_deadline(server: OpenAIServer) -> None:
    server.polls = 10**9
    started = time.monotonic()
    with backend_of(server, video_mode="videos_api", timeout_s=0.5) as backend, pytest.raises(BackendBusyError):
        backend.generate_video(VideoGenerationRequest("a fox", width=16, height=16, num_frames=1))

    assert time.monotonic() - started < 20
    assert len(server.posts) == 1
