"""Whole jobs on servers of several kinds: what is refused before anything starts, what is recorded, what is kept to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from abstractvision_batch.cli import main
from abstractvision_batch.errors import DependencyError, SeedsIgnoredError, SpecError
from abstractvision_batch.job.fingerprint import fingerprint
from abstractvision_batch.job.load import load_job
from abstractvision_batch.verbs.run import run
from tests.support.dialect_server import DialectServer, dialect_server
from tests.support.jobs import MakeJob

SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
PARAMS = {"width": 64, "height": 64, "steps": 4, "seed": 7}


def backend_of(server: DialectServer | None, **settings: Any) -> dict[str, Any]:
    base_url = "http://127.0.0.1:9/v1" if server is None else server.base_url
    return {"kind": "openai", "base_url": base_url, "served_model": "a-model", **settings}


def rows_of(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(path / "manifest.parquet").to_pylist()
    return found


def problems_of(make_job: MakeJob, backend: dict[str, Any], **fields: Any) -> list[str]:
    try:
        run(make_job(**{"model": SDXL, "params": PARAMS, "backend": backend, **fields}))
    except SpecError as error:
        return list(error.problems)
    return []


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", ["vllm_omni", "sglang", "localai", "xinference", "litellm", "unknown"])
def test_samples_of_a_prompt_are_pictures_of_their_own_by_default(kind: str, make_job: MakeJob, tmp_path: Path) -> None:
    with dialect_server(kind) as server:
        job = make_job(model=SDXL, params=PARAMS, backend=backend_of(server), samples_per_prompt=2)
        result = run(job)

    assert (result.exit_code, result.notes) == (0, {})
    rows = rows_of(tmp_path / "run")
    assert len({row["pixel_sha256"] for row in rows}) == len(rows)
    assert {row["reproducibility"] for row in rows} == {"seeded-remote"}
    assert {read["steps"] for read in server.read} == {4}
    settled = json.loads((tmp_path / "run/server.json").read_text())
    assert settled["dialect"] == ("extended" if kind == "unknown" else kind)
    environments = [json.loads(path.read_text()) for path in (tmp_path / "run/environments").iterdir()]
    assert [one["backend"]["dialect"] for one in environments] == [settled["dialect"]]


@pytest.mark.parametrize(
    ("dialect", "fields", "message"),
    [
        ("localai", {"params": {**PARAMS, "guidance_scale": 5.0}}, "params.guidance_scale: LocalAI ignores"),
        ("localai", {"matrix": {"guidance_scale": [3.0, 5.0]}}, "matrix.guidance_scale: LocalAI ignores"),
        ("vllm_omni", {"params": {**PARAMS, "steps": 300}}, "params.steps: 300 where vLLM-Omni takes 1 to 200"),
        ("vllm_omni", {"zip": {"steps": [10, 300]}}, "zip.steps: 300 where vLLM-Omni"),
        ("sglang", {"params": {**PARAMS, "extra": {"bogus": 1}}}, "params.extra.bogus: SGLang ignores it"),
        (
            "localai",
            {"prompts": {"source": [{"prompt": "a", "guidance_scale": 5.0}]}},
            "prompts.fields.guidance_scale: column 'guidance_scale': LocalAI ignores",
        ),
    ],
)
def test_what_a_named_server_ignores_is_refused_before_anything_starts(
    make_job: MakeJob, tmp_path: Path, dialect: str, fields: dict[str, Any], message: str
) -> None:
    (problem,) = problems_of(make_job, backend_of(None, dialect=dialect), **fields)

    assert message in problem
    assert not (tmp_path / "run/run.json").exists()


def test_what_a_found_server_ignores_is_refused_at_the_start(make_job: MakeJob, tmp_path: Path) -> None:
    with dialect_server("localai") as server:
        (problem,) = problems_of(make_job, backend_of(server), params={**PARAMS, "guidance_scale": 5.0})
        assert server.posts == []

    assert "params.guidance_scale: LocalAI ignores guidance_scale in text_to_image" in problem
    assert not (tmp_path / "run/run.json").exists()


def test_a_server_that_is_missing_is_said_before_anything_is_written(make_job: MakeJob, tmp_path: Path) -> None:
    with pytest.raises(DependencyError, match=r"backend.base_url: .*start it, or correct backend\.base_url"):
        run(make_job(model=SDXL, params=PARAMS, backend=backend_of(None)))

    assert not (tmp_path / "run/run.json").exists()


def test_a_field_that_the_user_names_is_not_refused(make_job: MakeJob) -> None:
    with dialect_server("localai") as server:
        backend = backend_of(server, field_names={"guidance_scale": "cfg"})
        assert problems_of(make_job, backend, params={**PARAMS, "guidance_scale": 5.0}) == []

    assert {fields["cfg"] for _, fields in server.posts} == {5.0}


def test_a_card_s_default_that_the_server_ignores_is_noted_in_the_row(make_job: MakeJob, tmp_path: Path) -> None:
    """FLUX.1's card has a default strength; SGLang's edits read none, and nobody asked for it."""
    image = Path(__file__).parents[2] / "examples/images/red-circle.png"
    with dialect_server("sglang") as server:
        result = run(
            make_job(
                task="image_to_image",
                model="black-forest-labs/FLUX.1-dev",
                params={"steps": 4},
                backend=backend_of(server),
                prompts={"source": [{"prompt": "a fox", "image": str(image)}]},
            )
        )

    assert result.exit_code == 0
    assert {tuple(json.loads(row["metadata_json"])["not_sent"]) for row in rows_of(tmp_path / "run")} == {("strength",)}


def two_shards(server: DialectServer, make_job: MakeJob) -> dict[str, Any]:
    job: dict[str, Any] = make_job(
        model=SDXL,
        params=PARAMS,
        backend=backend_of(server, retries=0, max_concurrency=1),
        prompts={"source": ["a", "b"]},
        samples_per_prompt=1,
        execution={"batch_size": 1, "shard_size": 1},
    )
    return job


def half_a_run(server: DialectServer, make_job: MakeJob, tmp_path: Path) -> dict[str, Any]:
    """A finished run that has lost its second part."""
    job = two_shards(server, make_job)
    run(job)
    for name in ("manifest.parquet", "manifest/00001-a0.parquet", "README.md"):
        (tmp_path / "run" / name).unlink()
    return job


def test_a_run_does_not_go_on_at_a_server_of_another_kind(make_job: MakeJob, tmp_path: Path) -> None:
    with dialect_server("vllm_omni") as server:
        job = half_a_run(server, make_job, tmp_path)
        server.become("sglang")
        posts = len(server.posts)
        with pytest.raises(DependencyError, match="began at vLLM-Omni, and this is SGLang now"):
            run(job)
        assert len(server.posts) == posts

        server.become("vllm_omni")
        assert run(job).exit_code == 0


def test_a_run_that_knew_no_dialects_goes_on_as_it_began(make_job: MakeJob, tmp_path: Path) -> None:
    """Its rows were made with `steps`, which this server drops; half of them with other steps would be another run."""
    with dialect_server("sglang") as server:
        job = half_a_run(server, make_job, tmp_path)
        (tmp_path / "run/server.json").unlink()
        record = json.loads((tmp_path / "run/run.json").read_text())
        del record["spec"]["backend"]["dialect"]
        record["spec"]["backend"]["request_shape"] = "auto"
        (tmp_path / "run/run.json").write_text(json.dumps(record))
        server.image_format = "png"
        result = run(job)

    assert result.exit_code == 0
    first, second, again = (fields for _, fields in server.posts)
    assert ("num_inference_steps" in first, "num_inference_steps" in second) == (True, True)
    assert (again["steps"], "num_inference_steps" in again) == (4, False)
    assert json.loads((tmp_path / "run/server.json").read_text())["dialect"] == "extended_1"


def test_old_words_keep_their_meaning_and_their_fingerprint(make_job: MakeJob) -> None:
    def fingerprint_of(**settings: Any) -> str:
        data = make_job(model=SDXL, params=PARAMS, backend=backend_of(None, **settings))
        return fingerprint(load_job(data).spec, prompts_digest="0" * 64)

    assert fingerprint_of() == fingerprint_of(request_shape="auto") == fingerprint_of(dialect="auto")
    assert fingerprint_of(request_shape="sd_server") != fingerprint_of()
    with pytest.raises(SpecError, match="dialect and request_shape say the same thing twice"):
        fingerprint_of(request_shape="openai", dialect="openai")


def test_a_server_that_ignores_seeds_stops_the_run_at_once(make_job: MakeJob, tmp_path: Path) -> None:
    job: dict[str, Any] = {"model": SDXL, "params": PARAMS, "prompts": {"source": ["a", "b"]}, "samples_per_prompt": 4}
    job["execution"] = {"batch_size": 4}
    with dialect_server("unknown", deaf_to=("seed",)) as server:
        job["backend"] = backend_of(server)
        with pytest.raises(SeedsIgnoredError, match=r"of one request give the same pixels .*field_names\.seed"):
            run(make_job(**job))
        assert not list((tmp_path / "run/manifest").glob("*"))

        result = run(make_job(**job | {"execution": {"batch_size": 4, "seed_canary": False}}))
    assert result.exit_code == 0


def test_a_server_whose_seeds_mean_nothing_stops_the_run_too(make_job: MakeJob) -> None:
    """The same seed twice, with two pictures: what it read is another prompt each time."""
    source = [{"prompt": "a fox", "seed": 5, "id": "once"}, {"prompt": "a fox", "seed": 5, "id": "again"}]
    with dialect_server("unknown") as server:
        server.random_seed = True
        job = make_job(
            model=SDXL, params=PARAMS, backend=backend_of(server), prompts={"source": source}, samples_per_prompt=1
        )
        with pytest.raises(SeedsIgnoredError, match="seed 5 of two equal requests give two pictures"):
            run(job)


def test_pictures_of_another_size_are_one_line_of_the_summary(
    make_job: MakeJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with dialect_server("vllm_omni", size="32x16") as server:
        spec = tmp_path / "job.json"
        spec.write_text(json.dumps(make_job(model=SDXL, params=PARAMS, backend=backend_of(server))))
        with pytest.raises(SystemExit) as ended:
            raise SystemExit(main(["run", str(spec)]))

    rows = rows_of(tmp_path / "run")
    assert ended.value.code in (0, None)
    said = capsys.readouterr().out
    assert f"note       {len(rows)} rows came in another size or type than asked for" in said
    assert json.loads(rows[0]["metadata_json"])["transport"] == {"size": {"asked": "64x64", "received": "32x16"}}
