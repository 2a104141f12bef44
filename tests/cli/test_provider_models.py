"""`provider-models` against a local server."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner, Result

from abstractvision_batch.backends.from_environment import VARIABLES
from abstractvision_batch.cli.app import app
from tests.support.openai_server import OpenAIServer, running_server

MODELS = [
    {"id": "painter", "owned_by": "us", "capabilities": ["text-to-image"]},
    {"id": "animator", "owned_by": "us", "capabilities": ["text-to-video"]},
]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable.name, raising=False)


@pytest.fixture(scope="module")
def server() -> Iterator[OpenAIServer]:
    with running_server(models=MODELS, api_key="s3cret-key") as server:
        yield server


def provider_models(*args: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["provider-models", *args])
    assert result.exit_code == code, result.output
    return result


def test_the_models_of_a_server_are_a_table(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "s3cret-key")

    lines = provider_models("--base-url", server.base_url, "--api-key-env", "MY_KEY").stdout.splitlines()

    assert lines[0].split() == ["MODEL", "OWNER", "CAPABILITIES"]
    assert lines[1].split() == ["painter", "us", "text_to_image"]
    assert lines[-1] == "2 models"


def test_a_task_filters_and_json_has_what_the_server_said(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ABSTRACTVISION_BASE_URL", server.base_url)
    monkeypatch.setenv("ABSTRACTVISION_API_KEY", "s3cret-key")

    answer = json.loads(provider_models("--task", "text_to_video", "--json").stdout)

    assert [model["id"] for model in answer["models"]] == ["animator"]
    assert answer["models"][0]["raw"] == MODELS[1]


def test_a_refused_key_is_not_repeated(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "a-wrong-key")

    result = provider_models("--base-url", server.base_url, "--api-key-env", "MY_KEY", code=3)

    assert "401" in result.stderr
    assert "a-wrong-key" not in result.output


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "no server is named"),
        (("--openai",), "OPENAI_API_KEY"),
        (("--openai", "--base-url", "http://127.0.0.1:1/v1"), "one server at a time"),
        (("--base-url", "127.0.0.1:1"), "base_url"),
        (("--base-url", "http://127.0.0.1:1/v1", "--api-key-env", "NO_SUCH_VARIABLE"), "NO_SUCH_VARIABLE is not set"),
        (("--base-url", "http://127.0.0.1:1/v1", "--task", "paint"), "'paint' is unknown"),
    ],
)
def test_a_mistake_ends_with_2(args: tuple[str, ...], said: str) -> None:
    assert said in provider_models(*args, code=2).stderr


def test_a_server_that_hangs_is_given_up_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        start = time.monotonic()
        result = provider_models("--base-url", url, "--timeout-s", "0.3", code=3)

    assert time.monotonic() - start < 5
    assert "no result within 0.3 s" in result.stderr


def test_a_server_that_is_not_there_ends_with_3() -> None:
    assert "is the server running?" in provider_models("--base-url", "http://127.0.0.1:1/v1", code=3).stderr
