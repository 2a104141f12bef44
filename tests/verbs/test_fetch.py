"""`avbatch fetch` against a stand-in for the hub: what is fetched, what is not, and what stands in the way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import abstractvision_batch as avb
from abstractvision_batch.errors import SpecError
from tests.support.hub_server import COMMIT, HubServer, running_hub

Fetch = Callable[..., subprocess.CompletedProcess[str]]

#: Of a small model: what each file is, and whether Diffusers loads it.
FILES = {
    "model_index.json": True,
    "README.md": True,
    "scheduler/scheduler_config.json": True,
    "unet/config.json": True,
    "unet/diffusion_pytorch_model.safetensors": True,
    "unet/diffusion_pytorch_model.fp16.safetensors": False,
    "unet/diffusion_pytorch_model.bin": False,
    "unused/model.safetensors": False,
    "whole.safetensors": False,
}
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "scheduler": ["diffusers", "DDIMScheduler"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "safety_checker": [None, None],
}


def write_repository(folder: Path) -> None:
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}" if name.endswith("json") else name * 100)
    (folder / "model_index.json").write_text(json.dumps(INDEX))


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    write_repository(tmp_path / "hub" / "acme" / "small")
    with running_hub(tmp_path / "hub") as server:
        yield server


@pytest.fixture
def fetch(hub: HubServer, tmp_path: Path) -> Fetch:
    def call(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        own = {
            "HF_ENDPOINT": hub.url,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_XET": "1",
        }
        names = ("HF_TOKEN", "HF_HUB_CACHE")
        inherited = {name: value for name, value in os.environ.items() if name not in names}
        return subprocess.run(
            [sys.executable, "-m", "abstractvision_batch", "fetch", *words],
            env={**inherited, **own, **environ},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return call


def snapshot(tmp_path: Path, repo_id: str = "acme/small") -> Path:
    return tmp_path / "home" / "hub" / f"models--{repo_id.replace('/', '--')}" / "snapshots" / COMMIT


def names_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_what_is_loaded_is_fetched_once_and_nothing_else(hub: HubServer, fetch: Fetch, tmp_path: Path) -> None:
    first = fetch("acme/small")
    sent = len(hub.sent)
    second = fetch("acme/small", "--json")

    assert first.returncode == 0, first.stderr
    assert "acme/small" in first.stdout
    assert names_in(snapshot(tmp_path)) == {name for name, loaded in FILES.items() if loaded}
    assert len(hub.sent) == sent
    (part,) = json.loads(second.stdout)["parts"]
    assert (part["missing_bytes"], part["size_bytes"] > 4000) == (0, True)


def test_sizes_are_shown_without_fetching(hub: HubServer, fetch: Fetch, tmp_path: Path) -> None:
    ended = fetch("acme/small", "--dry-run")

    assert ended.returncode == 0, ended.stderr
    assert "to fetch; nothing was fetched" in ended.stdout
    assert [path for path, _ in hub.sent if not path.endswith("model_index.json")] == []


def test_a_download_that_was_cut_off_goes_on(hub: HubServer, fetch: Fetch, tmp_path: Path) -> None:
    weights = tmp_path / "hub" / "acme" / "small" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(os.urandom(30_000_000))
    hub.cut_after = 20_000_000
    broken = fetch("acme/small")
    hub.cut_after = None
    ended = fetch("acme/small")

    assert ended.returncode == 0, (broken.stderr, ended.stderr)
    fetched = snapshot(tmp_path) / "unet" / "diffusion_pytorch_model.safetensors"
    assert fetched.read_bytes() == weights.read_bytes()
    sizes = [size for path, size in hub.sent if path.endswith("diffusion_pytorch_model.safetensors")]
    assert sizes[-1] < 30_000_000, sizes


def test_a_gated_model_is_refused_with_what_to_do(hub: HubServer, fetch: Fetch) -> None:
    hub.gated.add("acme/small")

    refused = fetch("acme/small")
    taken = fetch("acme/small", HF_TOKEN="hf_test")

    assert refused.returncode == 3
    assert f"gated: only for accounts that accepted its terms (accept them at {hub.url}/acme/small" in refused.stderr
    assert "export HF_TOKEN" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert taken.returncode == 0, taken.stderr


def test_a_repository_that_is_not_there_is_said_to_be(fetch: Fetch) -> None:
    ended = fetch("acme/nothing")

    assert ended.returncode == 3
    assert "acme/nothing: not on http://127.0.0.1" in ended.stderr


def test_no_network_is_said_to_be_forbidden(fetch: Fetch) -> None:
    ended = fetch("acme/small", HF_HUB_OFFLINE="1")

    assert ended.returncode == 3
    assert "HF_HUB_OFFLINE forbids the network" in ended.stderr


def test_a_spec_gets_its_model_without_a_card_its_components_and_its_adapters(
    hub: HubServer, fetch: Fetch, tmp_path: Path
) -> None:
    adapter = tmp_path / "hub" / "acme" / "style"
    adapter.mkdir(parents=True)
    for name in ("pytorch_lora_weights.safetensors", "other.bin", "sample.png"):
        (adapter / name).write_text(name)
    rapid = tmp_path / "hub" / "acme" / "rapid" / "transformer"
    rapid.mkdir(parents=True)
    (rapid / "config.json").write_text("{}")
    (rapid / "diffusion_pytorch_model.safetensors").write_text("weights")
    (tmp_path / "spec.yaml").write_text(
        "name: own\nmodel: acme/small\nbackend: {kind: diffusers, loras: [{source: acme/style}], "
        "rapid_aio_repo: acme/rapid}\nprompts: {source: [a fox]}\nparams: {seed: 1}\noutput: {path: out}\n"
    )

    ended = fetch("spec.yaml")

    assert ended.returncode == 0, ended.stderr
    assert "unet/diffusion_pytorch_model.safetensors" in names_in(snapshot(tmp_path))
    assert names_in(snapshot(tmp_path, "acme/style")) == {"pytorch_lora_weights.safetensors"}
    assert "transformer/diffusion_pytorch_model.safetensors" in names_in(snapshot(tmp_path, "acme/rapid"))


def test_every_variant_of_a_spec_gets_its_model_and_a_server_none(fetch: Fetch, hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(
        "name: own\nmodel: avbatch/procedural\nvariants:\n"
        "  drawn: {backend: {kind: procedural}}\n"
        "  own: {model: acme/small}\n"
        "  served: {backend: {kind: openai, base_url: 'http://127.0.0.1:9/v1', served_model: m,"
        " api_key: {env: NO_KEY}}}\n"
        "prompts: {source: [a fox]}\noutput: {path: out}\n"
    )

    ended = fetch("spec.yaml")

    assert ended.returncode == 0, ended.stderr
    assert "unet/diffusion_pytorch_model.safetensors" in names_in(snapshot(tmp_path))


@pytest.mark.slow  # the hub's client tries six times
def test_a_hub_that_is_not_reached_is_said_to_be(fetch: Fetch) -> None:
    ended = fetch("acme/small", HF_ENDPOINT="http://127.0.0.1:9")

    assert ended.returncode == 3
    assert "acme/small: download failed" in ended.stderr and "Traceback" not in ended.stderr


def test_a_server_has_nothing_to_fetch(fetch: Fetch) -> None:
    ended = fetch("gpt-image-2")

    assert ended.returncode == 2
    assert "nothing of it is on the hub for openai" in ended.stderr


def test_a_name_that_no_card_has_is_not_asked_of_the_hub(hub: HubServer) -> None:
    with pytest.raises(SpecError, match=r"flux\.1-dev: no card .* owner/name .did you mean black-forest-labs/FLUX"):
        avb.fetch("flux.1-dev")

    assert avb.fetch("avbatch/shapes64") == []


@pytest.mark.slow
@pytest.mark.ray
def test_every_node_of_a_cluster_gets_it(hub: HubServer, fetch: Fetch, tmp_path: Path) -> None:
    from tests.support.ray_nodes import running_cluster

    shutil.rmtree(tmp_path / "home", ignore_errors=True)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}.items():
            patch.setenv(name, value)
        with running_cluster(1) as cluster:
            ended = fetch("acme/small", "--address", cluster.address, "--json")

    assert ended.returncode == 0, ended.stderr
    assert len(json.loads(ended.stdout)["fetched"]) == 2  # its head and one node
    assert names_in(snapshot(tmp_path)) == {name for name, loaded in FILES.items() if loaded}
