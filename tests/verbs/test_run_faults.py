"""Model files that are broken and servers that misbehave: one error in the library, one row or exit code 3 in a job.

Soon, with every neighbour generated; and what is mended goes on with the same command.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

import abstractvision_batch
from abstractvision_batch.backends.base_backend import VisionBackend
from abstractvision_batch.backends.table import create_backend, load_section_class
from abstractvision_batch.cli.app import app
from abstractvision_batch.errors import AbstractVisionError, DependencyError
from abstractvision_batch.registry.cards import load_cards
from abstractvision_batch.types import ImageGenerationRequest
from tests.support.jobs import MakeJob
from tests.support.openai_server import (
    Fault,
    OpenAIServer,
    announces,
    answers,
    half_a_json,
    hangs,
    never_ends,
    refuses,
    resets,
    running_server,
    trickles,
)
from tests.support.sdcpp_models import built_programs, random_tensors, save, transformer, write_models

EMBEDDED = Path(abstractvision_batch.__file__).parent / "models" / "shapes64"
FOX = ImageGenerationRequest("a fox", width=64, height=64, steps=2, seed=7)
SOON_S = 30.0
"""Beyond this a test counts as a hang; the faults themselves take a second."""

Damage = Callable[[Path], None]


@dataclass(frozen=True)
class Ended:
    """How a job ended."""

    exit_code: int
    said: list[str]
    rows: list[dict[str, Any]]


def run_job(job: dict[str, Any], tmp_path: Path) -> Ended:
    """Run a job by the command, as a user does."""
    spec, manifest = tmp_path / "job.yaml", tmp_path / "run" / "manifest.parquet"
    spec.write_text(yaml.safe_dump(job), encoding="utf-8")
    started = time.monotonic()
    result = CliRunner().invoke(app, ["run", str(spec), "--quiet"])
    assert time.monotonic() - started < SOON_S
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.stderr
    rows = pq.read_table(manifest).to_pylist() if manifest.exists() else []
    return Ended(result.exit_code, result.stderr.splitlines(), rows)


def backend_of(section: dict[str, Any], model: str) -> VisionBackend:
    spec = load_section_class(section["kind"]).model_validate(section)
    return create_backend(spec, card=load_cards()[model], model=model)


# model files


def leave_out(file: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / file).unlink()

    return damage


def cut(file: str) -> Damage:
    def damage(folder: Path) -> None:
        data = (folder / file).read_bytes()
        (folder / file).write_bytes(data[: len(data) // 2])

    return damage


def put_in_place(file: str, other: str) -> Damage:
    def damage(folder: Path) -> None:
        shutil.copy(folder / other, folder / file)

    return damage


def put_a_web_page(file: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / file).write_text("<!DOCTYPE html><title>404 Not Found</title>")

    return damage


UNET, VAE = "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"
OVIS, TAEF1 = "ovis.safetensors", "taef1.safetensors"
BROKEN_MODELS: dict[tuple[str, str], tuple[Damage, str]] = {
    ("diffusers", "folder missing"): (shutil.rmtree, "no such file or folder"),
    ("diffusers", "file missing"): (leave_out(UNET), "cannot be loaded"),
    ("diffusers", "index missing"): (leave_out("model_index.json"), "lacks model_index.json"),
    ("diffusers", "truncated"): (cut(UNET), "cannot be loaded"),
    ("diffusers", "of the wrong kind"): (put_in_place(UNET, VAE), "cannot be loaded"),
    ("diffusers", "a web page"): (put_a_web_page(UNET), "cannot be loaded"),
    ("sdcpp", "file missing"): (leave_out(OVIS), "is not there"),
    ("sdcpp", "component missing"): (leave_out(TAEF1), "is not there"),
    ("sdcpp", "truncated"): (cut(OVIS), "is truncated"),
    ("sdcpp", "of the wrong kind"): (put_in_place(OVIS, TAEF1), "cannot be loaded"),
    ("sdcpp", "a web page"): (put_a_web_page(OVIS), "neither safetensors, nor GGUF, nor a PyTorch checkpoint"),
}
MARKS = {"diffusers": pytest.mark.model, "sdcpp": pytest.mark.sdcpp}
each_broken_model = pytest.mark.parametrize(
    ("kind", "what"),
    [pytest.param(*key, marks=MARKS[key[0]], id=" ".join(key)) for key in BROKEN_MODELS],
)


@pytest.fixture(scope="module")
def whole_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {"diffusers": EMBEDDED, "sdcpp": write_models(tmp_path_factory.mktemp("sdcpp"))}


def section_of(kind: str, folder: Path) -> tuple[str, dict[str, Any]]:
    """A model's card and a `backend` section with the weights in `folder`."""
    if kind == "diffusers":
        return "avbatch/shapes64", {"kind": kind, "device": "cpu", "model_path": str(folder)}
    programs = built_programs()
    if programs is None:
        pytest.skip("sd-cli and sd-server are not built (scripts/build_sdcpp.sh)")
    files = {"model_path": str(folder / OVIS), "taesd": str(folder / TAEF1), "sd_cli_path": str(programs / "sd-cli")}
    return "stabilityai/stable-diffusion-xl-base-1.0", {"kind": kind, "mode": "server", **files}


@each_broken_model
def test_a_broken_model_is_one_clear_error(kind: str, what: str, whole_models: dict[str, Path], tmp_path: Path) -> None:
    damage, said = BROKEN_MODELS[kind, what]
    folder = shutil.copytree(whole_models[kind], tmp_path / "model")
    damage(folder)
    model, section = section_of(kind, folder)

    with backend_of(section, model) as backend, pytest.raises(DependencyError, match=said) as caught:
        backend.generate_image(FOX)

    assert str(folder) in str(caught.value)


@pytest.mark.sampled(5)
@each_broken_model
def test_a_broken_model_ends_a_job_with_3_and_a_mended_one_finishes_it(
    kind: str, what: str, whole_models: dict[str, Path], make_job: MakeJob, tmp_path: Path
) -> None:
    damage, said = BROKEN_MODELS[kind, what]
    folder = shutil.copytree(whole_models[kind], tmp_path / "model")
    damage(folder)
    model, section = section_of(kind, folder)
    params = {"steps": 2, "seed": 7, "width": 64, "height": 64}
    job = make_job(model=model, backend=section, params=params, prompts={"source": ["a fox"]}, samples_per_prompt=2)

    broken = run_job(job, tmp_path)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole_models[kind], folder)
    mended = run_job(job, tmp_path)

    assert (broken.exit_code, broken.rows) == (3, [])
    assert any(said in line for line in broken.said)
    assert mended.exit_code == 0
    assert [row["status"] for row in mended.rows] == ["ok", "ok"]


@pytest.mark.sdcpp
def test_a_model_that_crashes_the_library_fails_rows_and_never_the_job(
    whole_models: dict[str, Path], make_job: MakeJob, tmp_path: Path
) -> None:
    """FLUX whose text encoder is another file: it loads, and dies at the first prompt."""
    flux = save(random_tensors(transformer(context=4096, pooled=True)), tmp_path / "flux.safetensors")
    model, section = section_of("sdcpp", whole_models["sdcpp"])
    section |= {"model_path": None, "diffusion_model": str(flux), "llm": section["taesd"]}
    params = {"steps": 1, "seed": 7, "width": 64, "height": 64}
    job = make_job(model=model, backend=section, params=params, prompts={"source": ["a fox"]}, samples_per_prompt=2)

    ended = run_job(job, tmp_path)

    assert ended.exit_code == 1
    assert [row["error_kind"] for row in ended.rows] == ["worker_crashed", "worker_crashed"]
    assert all("crashed with SIG" in row["error_message"] for row in ended.rows)


# servers

#: What happens → the fault, the kind of its row, and what its message says.
ROW_FAULTS: dict[str, tuple[Fault, str, str]] = {
    "hangs": (hangs, "busy", "no result within 2 s"),
    "trickles": (trickles, "busy", "no result within 2 s"),
    "resets": (resets, "busy", "/images/generations"),
    "429": (refuses(429, "slow down", Retry_After="9999"), "busy", "429: slow down"),
    "500": (refuses(500, "oops"), "busy", "500: oops"),
    "500 as a page": (answers(500, "<html>busy</html>"), "busy", "500"),
    "a web page": (answers(200, "<html><title>Login</title></html>"), "invalid_output", "a web page"),
    "half a JSON": (half_a_json, "invalid_output", "bytes that are not JSON"),
    "no picture": (answers(200, {"data": [{"b64_json": "AAAA"}]}), "invalid_output", "of no known type"),
    "10 GB": (announces(10 * 10**9), "invalid_output", "10000000000 bytes; more than"),
    "a body without end": (never_ends, "invalid_output", "over 1000000 bytes"),
    "refused by policy": (refuses(400, "not this", "content_policy_violation"), "policy", "400: not this"),
    "403 while the key works": (refuses(403, "not yours"), "generation", "403: not yours"),
    "moderated": (refuses(400, "not this", "moderation_blocked"), "policy", "400: not this"),
}
#: What no other request would survive either.
FATAL_FAULTS: dict[str, tuple[Fault, str]] = {
    "401": (refuses(401, "wrong key", "invalid_api_key"), "401: wrong key"),
    "no credit": (refuses(429, "pay first", "insufficient_quota"), "fix the account"),
    "no such model": (refuses(404, "no model x", "model_not_found"), "backend.served_model"),
}


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with running_server() as server:
        yield server


def section_on(server: OpenAIServer) -> dict[str, Any]:
    limits = {"timeout_s": 2.0, "retries": 0, "max_response_bytes": 1_000_000}
    return {"kind": "openai", "base_url": server.base_url, **limits}


def job_on(server: OpenAIServer, make_job: MakeJob, **execution: Any) -> dict[str, Any]:
    """20 requests, each tried once."""
    settings = {"batch_size": 4, "shard_size": 8, "max_attempts": 1, **execution}
    return make_job(backend=section_on(server), execution=settings)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("what", [*ROW_FAULTS, *FATAL_FAULTS])
def test_a_fault_of_a_server_is_one_clear_error(what: str, server: OpenAIServer) -> None:
    fault, *_, said = (ROW_FAULTS | FATAL_FAULTS)[what]
    server.misbehave(fault)
    started = time.monotonic()

    with (
        backend_of(section_on(server), "avbatch/procedural") as backend,
        pytest.raises(AbstractVisionError) as caught,
    ):
        backend.generate_image(FOX)

    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert time.monotonic() - started < SOON_S
    assert getattr(caught.value, "error_kind", None) == (ROW_FAULTS[what][1] if what in ROW_FAULTS else None)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("what", ROW_FAULTS)
def test_a_fault_of_a_server_is_one_row_and_every_neighbour_is_generated(
    what: str, server: OpenAIServer, make_job: MakeJob, tmp_path: Path
) -> None:
    fault, kind, said = ROW_FAULTS[what]
    server.misbehave(fault)

    ended = run_job(job_on(server, make_job), tmp_path)

    (failed,) = (row for row in ended.rows if row["status"] != "ok")
    assert (ended.exit_code, len(ended.rows)) == (1, 20)
    assert (failed["error_kind"], failed["file_name"]) == (kind, None)
    assert said in failed["error_message"]
    assert all((tmp_path / "run" / row["file_name"]).is_file() for row in ended.rows if row is not failed)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("what", FATAL_FAULTS)
def test_what_no_request_would_survive_ends_a_job_with_3_and_a_mended_server_finishes_it(
    what: str, server: OpenAIServer, make_job: MakeJob, tmp_path: Path
) -> None:
    fault, said = FATAL_FAULTS[what]
    server.misbehave(fault)
    job = job_on(server, make_job)

    broken = run_job(job, tmp_path)
    mended = run_job(job, tmp_path)

    assert (broken.exit_code, broken.rows) == (3, [])
    assert any(said in line for line in broken.said)
    assert (mended.exit_code, len(mended.rows)) == (0, 20)


def test_a_server_that_is_not_there_ends_a_job_with_3_before_any_request_is_a_row(
    make_job: MakeJob, tmp_path: Path
) -> None:
    with running_server() as server:
        job = job_on(server, make_job)

    ended = run_job(job, tmp_path)

    assert (ended.exit_code, ended.rows) == (3, [])
    assert any("is the server running" in line for line in ended.said)
    assert not (tmp_path / "run" / "manifest").exists()
