"""Which token a client shows, and what it says of one that is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from abstractvision_batch.execute.ray.auth import explain_refusal, find_token, show_token_if_any


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, without a token."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_token_of_the_environment_is_shown() -> None:
    environ = {"RAY_AUTH_TOKEN": "abc"}

    show_token_if_any(environ)

    assert environ["RAY_AUTH_MODE"] == "token"


def test_the_token_that_ray_keeps_at_home_is_shown(home: Path) -> None:
    (home / ".ray").mkdir()
    (home / ".ray/auth_token").write_text("abc")
    environ: dict[str, str] = {}

    show_token_if_any(environ)

    assert environ == {"RAY_AUTH_MODE": "token"}


def test_a_file_that_the_environment_names_wins_over_the_one_at_home(home: Path) -> None:
    (home / "other").write_text("abc")

    assert find_token({"RAY_AUTH_TOKEN_PATH": str(home / "other")}) == str(home / "other")
    assert find_token({"RAY_AUTH_TOKEN_PATH": str(home / "missing")}) is None


def test_without_a_token_nothing_is_set() -> None:
    environ: dict[str, str] = {}

    show_token_if_any(environ)

    assert environ == {}


def test_a_mode_that_is_set_stays() -> None:
    environ = {"RAY_AUTH_TOKEN": "abc", "RAY_AUTH_MODE": "disabled"}

    show_token_if_any(environ)

    assert environ["RAY_AUTH_MODE"] == "disabled"


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, "there is none here (set RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_TOKEN": "abc"}, "refuses the token of RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_TOKEN": "abc", "RAY_AUTH_MODE": "disabled"}, "(unset RAY_AUTH_MODE)"),
    ],
)
def test_a_refusal_says_what_was_shown_and_what_to_set_and_not_the_token(environ: dict[str, str], said: str) -> None:
    message = explain_refusal("http://head:8265", environ)

    assert said in message
    assert "abc" not in message
    assert "\n" not in message
