"""The digest of weights: which files a backend loads, hashed once, the same wherever they lie."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from abstractvision_batch.backends import StableDiffusionCppBackendConfig
from abstractvision_batch.backends.huggingface_diffusers.config import HuggingFaceDiffusersBackendConfig, LoraAdapter
from abstractvision_batch.backends.huggingface_diffusers.weight_files import describe_weights
from abstractvision_batch.backends.stable_diffusion_cpp.config import Lora
from abstractvision_batch.backends.stable_diffusion_cpp.model_files import describe_weights as describe_sdcpp_weights
from abstractvision_batch.errors import DependencyError
from abstractvision_batch.registry.weights import Weights
from abstractvision_batch.storage import file_hashes
from abstractvision_batch.storage.file_hashes import hash_file
from tests.support.tiny_diffusers import levels_apart, make_backend, text_request

SNAPSHOT = "models--test--tiny/snapshots/5f3c"


def _write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"content of {name}")


def _model(folder: Path, *names: str) -> Path:
    """A Diffusers folder of a UNet and a VAE, without weights but for `names`."""
    index = {"_class_name": "P", "unet": ["diffusers", "U"], "vae": ["diffusers", "V"], "safety_checker": [None, None]}
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps(index))
    _write(folder, "unet/config.json", "vae/config.json", *names)
    return folder


def _loaded(path: Path, **fields: Any) -> set[str]:
    weights = describe_weights(HuggingFaceDiffusersBackendConfig("test/tiny", path=str(path), **fields), None)
    return set(weights.files) - {"model/model_index.json", "model/unet/config.json", "model/vae/config.json"}


def test_of_several_copies_of_the_weights_only_the_loaded_one_is_named(tmp_path: Path) -> None:
    stem = "unet/diffusion_pytorch_model"
    plain, half = f"{stem}.safetensors", f"{stem}.fp16.safetensors"
    others = (f"{stem}.bin", "unet/flax_model.msgpack", "unet/model.onnx", "unet/README.md", "other/model.safetensors")
    path = _model(tmp_path / "model", plain, half, *others, "vae/diffusion_pytorch_model.bin")

    assert _loaded(path) == {f"model/{plain}", "model/vae/diffusion_pytorch_model.bin"}
    assert _loaded(path, variant="fp16") == {f"model/{half}", "model/vae/diffusion_pytorch_model.bin"}


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_sharded_weights_are_named_with_their_index(tmp_path: Path, variant: str | None) -> None:
    plain = [f"unet/diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    half = [f"unet/diffusion_pytorch_model.fp16-0000{number}-of-00002.safetensors" for number in (1, 2)]
    plain += ["unet/diffusion_pytorch_model.safetensors.index.json"]
    half += ["unet/diffusion_pytorch_model.safetensors.index.fp16.json"]
    path = _model(tmp_path / "model", *plain, *half)

    assert _loaded(path, variant=variant) == {f"model/{name}" for name in (half if variant else plain)}


def test_the_digest_is_of_the_content_and_not_of_the_place(tmp_path: Path) -> None:
    name = "unet/diffusion_pytorch_model.safetensors"
    configs = [
        HuggingFaceDiffusersBackendConfig("test/tiny", path=str(_model(tmp_path / where, name))) for where in "ab"
    ]
    first, second = (describe_weights(config, None) for config in configs)
    assert first.digest == second.digest
    assert first.differing_files(second) == []

    (tmp_path / "b" / name).write_text(f"Content of {name}")  # one byte
    changed = describe_weights(configs[1], None)

    assert changed.digest != first.digest
    assert first.differing_files(changed) == [f"model/{name}"]
    assert Weights.from_json(json.loads(json.dumps(changed.to_json()))) == changed


def test_a_snapshot_of_the_hub_has_its_commit_and_every_adapter_its_own_hash(tmp_path: Path) -> None:
    name = "unet/diffusion_pytorch_model.safetensors"
    _model(tmp_path / SNAPSHOT, name)
    (tmp_path / "models--test--tiny/refs").mkdir()
    (tmp_path / "models--test--tiny/refs/main").write_text("5f3c")
    _write(tmp_path, "style.safetensors", "models--test--pose/snapshots/77aa/pose.safetensors")
    (tmp_path / "models--test--pose/refs").mkdir()
    (tmp_path / "models--test--pose/refs/main").write_text("77aa")
    loras = (LoraAdapter(str(tmp_path / "style.safetensors"), 0.5), LoraAdapter("test/pose"))

    found = describe_weights(
        HuggingFaceDiffusersBackendConfig("test/tiny", cache_dir=str(tmp_path), loras=loras), "text_to_image"
    )

    assert [(part.name, part.revision) for part in found.parts] == [
        ("model", "5f3c"),
        ("lora 1", None),
        ("lora 2", "77aa"),
    ]
    sha256 = hashlib.sha256(b"content of style.safetensors").hexdigest()
    assert found.files["lora 1/style.safetensors"].sha256 == sha256


def test_weights_that_are_not_there_are_an_error_and_not_an_empty_digest(tmp_path: Path) -> None:
    path = _model(tmp_path / "model")
    config = HuggingFaceDiffusersBackendConfig("test/tiny", path=str(path), loras=(LoraAdapter("no/lora"),))
    with pytest.raises(DependencyError, match="no/lora"):
        describe_weights(config, None)
    with pytest.raises(DependencyError, match=r"vae: .*vae\.gguf is not there"):
        describe_sdcpp_weights(StableDiffusionCppBackendConfig(vae=str(tmp_path / "vae.gguf")))


def test_stable_diffusion_cpp_names_its_files_by_their_part(tmp_path: Path) -> None:
    _write(tmp_path, "a.gguf", "vae.safetensors", "style.safetensors")

    found = describe_sdcpp_weights(
        StableDiffusionCppBackendConfig(
            diffusion_model="a.gguf", vae="vae.safetensors", loras=(Lora("style.safetensors"),), cwd=str(tmp_path)
        )
    )

    assert set(found.files) == {
        "diffusion_model/a.gguf",
        "vae/vae.safetensors",
        "lora 1/style.safetensors",
    }


@pytest.mark.model
def test_the_files_that_are_named_are_all_that_diffusers_needs(tiny_sd: Path, tmp_path: Path) -> None:
    with make_backend(tiny_sd) as backend:
        (whole,) = backend.generate_batch([text_request()])
        named = backend.weights().files
    for name in named:
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tiny_sd / name.removeprefix("model/"), target)

    with make_backend(tmp_path / "model") as backend:
        assert backend.weights().files == named
        assert levels_apart(whole, backend.generate_batch([text_request()])[0]) == 0


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of kept hashes, where every file counts as large and settled."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(file_hashes, "KEPT_FROM_BYTES", 1)
    monkeypatch.setattr(file_hashes, "SETTLED_S", -1.0)
    monkeypatch.setattr(file_hashes, "known_hashes", {})
    return tmp_path / "cache/avbatch/file-hashes"


def test_a_hash_is_kept_until_the_file_changes(kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"abc")
    assert hash_file(file) == hashlib.sha256(b"abc").hexdigest()
    (entry,) = kept.iterdir()
    entry.write_text("0" * 64)  # what another process would find
    monkeypatch.setattr(file_hashes, "known_hashes", {})
    assert hash_file(file) == "0" * 64

    times = file.stat().st_mtime_ns
    file.write_bytes(b"abd")
    os.utime(file, ns=(times, times))  # even an edit that hides itself

    assert hash_file(file) == hashlib.sha256(b"abd").hexdigest()


@pytest.mark.parametrize("content", ["", "half a hash", "\xff"])
def test_a_damaged_entry_is_hashed_anew(
    kept: Path, tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"abc")
    hash_file(file)
    (entry,) = kept.iterdir()
    entry.write_text(content, encoding="latin-1")
    monkeypatch.setattr(file_hashes, "known_hashes", {})

    assert hash_file(file) == hashlib.sha256(b"abc").hexdigest() == entry.read_text()


def test_without_a_folder_to_write_to_files_are_hashed_each_time(kept: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    file = tmp_path / "weights"
    file.write_bytes(b"abc")

    assert hash_file(file) == hashlib.sha256(b"abc").hexdigest()


def test_a_file_that_has_just_changed_is_not_kept(kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_hashes, "SETTLED_S", 2.0)
    file = tmp_path / "weights"
    file.write_bytes(b"abc")

    hash_file(file)

    assert not kept.exists()


def test_processes_that_hash_at_once_agree_and_leave_one_entry(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"abc" * 1_000_000)
    script = (
        "import sys; from pathlib import Path; from abstractvision_batch.storage import file_hashes as f;"
        "f.KEPT_FROM_BYTES = 1; f.SETTLED_S = -1.0; print(f.hash_file(Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", script, str(file)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(3)]

    answers = {process.communicate(timeout=60)[0].strip() for process in processes}

    assert answers == {hashlib.sha256(file.read_bytes()).hexdigest()}
    assert len(list((tmp_path / "cache/avbatch/file-hashes").iterdir())) == 1
