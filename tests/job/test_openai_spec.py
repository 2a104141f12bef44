"""The openai backend in a spec: any card's model, tasks by configuration, secrets by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from abstractvision_batch.backends.openai_compatible.config import config_from_fields
from abstractvision_batch.backends.openai_compatible.fields import OpenAIBackendSpec
from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import load_job

LOCAL = {"kind": "openai", "base_url": "http://127.0.0.1:8000/v1"}


def problems_of(backend: dict[str, Any], **more: Any) -> tuple[str, ...]:
    data = {
        "name": "x",
        "model": "stabilityai/stable-diffusion-xl-base-1.0",
        "backend": backend,
        "prompts": {"source": ["a fox"]},
        "output": {"path": "runs/x"},
        **more,
    }
    try:
        load_job(data)
    except SpecError as error:
        return error.problems
    return ()


def test_a_server_may_serve_any_card_s_model() -> None:
    assert problems_of(LOCAL) == ()
    assert problems_of(LOCAL, model="black-forest-labs/FLUX.2-klein-4B") == ()


def test_a_user_s_card_without_backends_is_enough_for_a_server(tmp_path: Path) -> None:
    card = tmp_path / "mine.yaml"
    card.write_text("id: mine/model\nlicense: mine\ntasks: {text_to_image: {params: {steps: {max: 8}}}}\n")
    registry = {"paths": [str(card)]}

    assert problems_of(LOCAL, model="mine/model", registry=registry, params={"steps": 8}) == ()
    (problem,) = problems_of(LOCAL, model="mine/model", registry=registry, params={"steps": 9})
    assert "params.steps: 9" in problem
    (problem,) = problems_of({"kind": "diffusers"}, model="mine/model", registry=registry)
    assert "diffusers does not run text_to_image of mine/model (backends that do: none" in problem


@pytest.mark.parametrize(
    ("extra", "fine"),
    [({}, False), ({"text_to_video_path": "/t2v"}, True), ({"video_mode": "videos_api"}, True)],
)
def test_a_video_needs_a_path_or_the_videos_api(extra: dict[str, Any], fine: bool) -> None:
    found = problems_of({**LOCAL, **extra}, model="Wan-AI/Wan2.2-TI2V-5B-Diffusers", task="text_to_video")

    assert found == () if fine else "set backend.video_mode: videos_api, or the task's path" in found[0]


def test_views_are_refused() -> None:
    (problem,) = problems_of(LOCAL, model="avbatch/procedural", task="multi_view_image")

    assert "openai as configured does not run multi_view_image" in problem


def test_openai_itself_needs_a_key() -> None:
    official = {"kind": "openai", "base_url": "https://api.openai.com/v1"}

    (problem,) = problems_of(official, model="gpt-image-2")

    assert "this server needs a key (write api_key: {env: OPENAI_API_KEY})" in problem
    assert problems_of({**official, "api_key": {"env": "OPENAI_API_KEY"}}, model="gpt-image-2") == ()


def test_what_the_api_does_not_know_is_refused_before_it_costs() -> None:
    params = {"steps": 4, "seed": 7, "width": 1000, "extra": {"n": 4, "quality": "best"}}

    found = problems_of(LOCAL, model="gpt-image-2", params=params)

    assert sorted(line.split(": ")[1] for line in found) == [
        "params.extra.n",
        "params.extra.quality",
        "params.seed",
        "params.steps",
        "params.width",
    ]


def test_a_secret_in_the_spec_is_refused_and_not_repeated() -> None:
    for backend in (
        {**LOCAL, "api_key": "sk-secret"},
        {**LOCAL, "headers": {"Authorization": "Bearer sk-secret"}},
        {**LOCAL, "headers": {"x-api-key": "sk-secret"}},
    ):
        found = problems_of(backend)
        assert len(found) == 1
        assert "sk-secret" not in found[0]


@pytest.mark.parametrize("base_url", ["127.0.0.1:8000", "ftp://host/v1", "http://me:secret@host/v1", "http://host?a=b"])
def test_a_base_url_is_an_http_url_without_credentials_and_query(base_url: str) -> None:
    (problem,) = problems_of({**LOCAL, "base_url": base_url})

    assert "backend.base_url" in problem


def test_a_missing_base_url_is_one_problem() -> None:
    (problem,) = problems_of({"kind": "openai"})

    assert "backend.base_url: required field is missing" in problem


def test_a_secret_is_looked_up_when_the_backend_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = OpenAIBackendSpec.model_validate(
        {**LOCAL, "api_key": {"env": "TEST_KEY"}, "headers": {"api-key": {"env": "TEST_KEY"}, "x-team": "art"}}
    )
    fields = spec.model_dump(exclude={"kind"})
    monkeypatch.delenv("TEST_KEY", raising=False)
    with pytest.raises(SpecError, match="TEST_KEY is not set"):
        config_from_fields(fields, card_facts={}, model="m")
    monkeypatch.setenv("TEST_KEY", "sk-secret")

    config = config_from_fields(fields, card_facts={}, model="m")

    assert (config.api_key, config.headers) == ("sk-secret", {"api-key": "sk-secret", "x-team": "art"})
    assert config.model_id == "m"
    assert "sk-secret" not in spec.model_dump_json()


def test_the_job_s_name_of_the_model_wins_over_the_card_s_and_that_over_the_id() -> None:
    fields = OpenAIBackendSpec.model_validate(LOCAL).model_dump(exclude={"kind"})

    assert config_from_fields(fields, card_facts={"served_model": "c"}, model="m").model_id == "c"
    named = {**fields, "served_model": "s"}
    assert config_from_fields(named, card_facts={"served_model": "c"}, model="m").model_id == "s"
