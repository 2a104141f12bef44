"""Where a model's files are: a folder, a checkpoint, this package, or the hub cache, read without the network.

A folder of a hub snapshot is handed to Diffusers rather than the model's id: with an id it looks up hosts even where
downloads are off, and switching it off by environment variables would be a switch of the whole process.

Not covered: reading the weights (`loading`).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from abstractvision_batch.backends.huggingface_diffusers.config import HuggingFaceDiffusersBackendConfig, LoraAdapter
from abstractvision_batch.errors import DependencyError

PACKAGE_PREFIX = "package:"
INDEX = "model_index.json"
MODULAR_INDEX = "modular_model_index.json"
_LORA = "pytorch_lora_weights.safetensors"
#: Components that denoise: nearly all of a model's work, and most of its weights.
DENOISERS = ("transformer", "transformer_2", "unet")
#: Files of a repository that say what a model is, all but its weights.
DESCRIPTIONS = ("*.json", "*.txt", "*.model")
#: Names of an image decoder's weights begin so.
_DECODERS = ("first_stage_model.", "vae.", "decoder.")
#: What a single-file checkpoint's name ends in.
CHECKPOINTS = (".safetensors", ".ckpt")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model's folder, what to call it in metadata, and the hub commit it is a copy of.

    With a checkpoint the weights are in that one file, and the folder has the configuration.
    """

    folder: Path
    name: str
    revision: str | None
    index: dict[str, Any]
    checkpoint: Path | None = None

    @property
    def pipeline_class(self) -> str:
        """Name of the pipeline class that the model was saved from."""
        return str(self.index["_class_name"])

    def configuration(self, *components: str) -> dict[str, Any]:
        """Return the configuration of the first of these components that has one.

        Raises:
            DependencyError: it is damaged.
        """
        for name in components:
            for file in ("config.json", "scheduler_config.json"):
                path = self.folder / name / file
                if name in self.index and path.is_file():
                    try:
                        found = json.loads(path.read_text(encoding="utf-8"))
                    except ValueError as exc:
                        raise DependencyError(f"{path}: damaged, not JSON ({exc}) (fetch the model again)") from exc
                    return found if isinstance(found, dict) else {}
        return {}


def find_model(config: HuggingFaceDiffusersBackendConfig) -> ModelFiles:
    """Find a model's folder without network access.

    Raises:
        DependencyError: there is none, or it is no Diffusers folder; the message has the command that fixes it.
    """
    if config.path is not None:
        path = _local_path(config.path)
        if path.is_file():
            folder = _configuration_of(path, config)
            return ModelFiles(folder, config.path, None, _read_index(folder), checkpoint=path)
        return ModelFiles(path, config.path, None, _read_index(path))
    repo_id = config.repo_id or config.model_id
    if Path(repo_id).expanduser().is_dir():
        folder = Path(repo_id).expanduser()
        return ModelFiles(folder, repo_id, None, _read_index(folder))
    snapshot = find_snapshot(repo_id, revision=config.revision, cache_dir=config.cache_dir)
    folder = snapshot / (config.subfolder or "")
    return ModelFiles(folder, repo_id, snapshot.name, _read_index(folder))


def find_folder(source: str, cache_dir: str | None) -> Path:
    """Return a folder given by its path, or the snapshot of a hub repository.

    Raises:
        DependencyError: there is neither.
    """
    path = Path(source).expanduser()
    return path if path.is_dir() else find_snapshot(source, cache_dir=cache_dir)


def find_snapshot(repo_id: str, *, revision: str | None = None, cache_dir: str | None = None) -> Path:
    """Return the folder of a downloaded hub repository at `revision` (a branch, a tag or a commit).

    Raises:
        DependencyError: it was not downloaded; the message has the command that does.
    """
    root = hub_cache(cache_dir)
    repository = root / f"models--{repo_id.replace('/', '--')}"
    reference = repository / "refs" / (revision or "main")
    commit = reference.read_text().strip() if reference.is_file() else revision
    if commit is not None and (repository / "snapshots" / commit).is_dir():
        return repository / "snapshots" / commit
    command = f"avbatch fetch {repo_id}" + (f" --revision {revision}" if revision else "")
    command += f" --cache-dir {cache_dir}" if cache_dir else ""
    raise DependencyError(
        f"{repo_id}{f' at {revision}' if revision else ''}: not in {root} and downloads are off "
        f"({command}; or set allow_download: true; or give the folder as model_path)"
    )


def find_lora(adapter: LoraAdapter, config: HuggingFaceDiffusersBackendConfig) -> tuple[Path, str]:
    """Return an adapter's folder and file name.

    Raises:
        DependencyError: it is absent, or which of several files it is was not said.
    """
    path = Path(adapter.source).expanduser()
    if path.is_file():
        return path.parent, path.name
    fetch_snapshot(adapter.source, config)
    folder = find_folder(adapter.source, config.cache_dir)
    if adapter.subfolder:
        folder = folder / adapter.subfolder
    if adapter.weight_name is not None:
        if not (folder / adapter.weight_name).is_file():
            raise DependencyError(f"lora {adapter.source}: no {adapter.weight_name} in {folder}")
        return folder, adapter.weight_name
    names = sorted(found.name for found in folder.glob("*.safetensors"))
    if _LORA in names:
        return folder, _LORA
    if len(names) != 1:
        found = ", ".join(names) or "none"
        raise DependencyError(f"lora {adapter.source}: which file? (set weight_name; in {folder} there are: {found})")
    return folder, names[0]


def fetch_snapshot(
    source: str,
    config: HuggingFaceDiffusersBackendConfig,
    *,
    revision: str | None = None,
    patterns: list[str] | None = None,
) -> None:
    """Bring a hub repository, or the files of it that match, into the cache, if downloads are allowed.

    Raises:
        DependencyError: the download failed.
    """
    if not config.allow_download or Path(source).expanduser().exists():
        return
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        snapshot_download(source, revision=revision, cache_dir=config.cache_dir, allow_patterns=patterns)
    except (OSError, ValueError, HfHubHTTPError) as exc:
        raise DependencyError(f"{source}: download failed: {exc} (hf auth login, if gated)") from exc


def hub_cache(cache_dir: str | None) -> Path:
    """Return the hub cache's folder as huggingface_hub finds it."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    if "HF_HUB_CACHE" in os.environ:
        return Path(os.environ["HF_HUB_CACHE"]).expanduser()
    home = os.environ.get("HF_HOME") or str(Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface")
    return Path(home).expanduser() / "hub"


def _local_path(path: str) -> Path:
    if path.startswith(PACKAGE_PREFIX):
        root = Path(str(files("abstractvision_batch")))
        found = root.joinpath(*path.removeprefix(PACKAGE_PREFIX).split("/"))
        mend = "install abstractvision_batch again: its package data is incomplete"
    else:
        found, mend = Path(path).expanduser(), "correct backend.model_path"
    if not found.exists():
        raise DependencyError(f"{path}: no such file or folder ({mend})")
    if found.is_file() and found.suffix not in CHECKPOINTS:
        other = "; backend.kind sdcpp reads GGUF" if found.suffix == ".gguf" else ""
        raise DependencyError(f"{path}: a checkpoint's name ends in {' or '.join(CHECKPOINTS)} (correct it{other})")
    return found


def needs_configuration(config: HuggingFaceDiffusersBackendConfig) -> bool:
    """Whether the model is a checkpoint whose configuration is neither given nor beside it."""
    if config.path is None or config.config_path is not None:
        return False
    path = _local_path(config.path)
    return path.is_file() and not (path.parent / INDEX).is_file()


def checkpoint_of(config: HuggingFaceDiffusersBackendConfig) -> Path | None:
    """Return the model's file where it is a checkpoint whose configuration is neither given nor next to it."""
    if not needs_configuration(config) or config.path is None:
        return None
    return _local_path(config.path)


def has_decoder(checkpoint: Path) -> bool:
    """Whether a checkpoint has an image decoder beside the denoiser.

    Raises:
        SafetensorError: the file is damaged.
    """
    if checkpoint.suffix != ".safetensors":
        return True  # what a pickle holds is known only once it is loaded; such files are whole models
    from safetensors import safe_open

    with safe_open(checkpoint, framework="np") as weights:
        names: list[str] = weights.keys()
    return any(name.startswith(_DECODERS) for name in names)


def _configuration_of(checkpoint: Path, config: HuggingFaceDiffusersBackendConfig) -> Path:
    if config.config_path is not None:
        return Path(config.config_path).expanduser()
    if (checkpoint.parent / INDEX).is_file():
        return checkpoint.parent
    repo_id = config.repo_id or config.model_id
    try:
        return find_snapshot(repo_id, revision=config.revision, cache_dir=config.cache_dir) / (config.subfolder or "")
    except DependencyError as error:
        raise DependencyError(
            f"{checkpoint}: what its weights are of is not known without a configuration "
            f"(avbatch fetch {checkpoint}, which takes that of {repo_id}; "
            f"or give the folder of a {INDEX} as config_path)"
        ) from error


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    if not path.is_file():
        if (folder / MODULAR_INDEX).is_file():
            raise DependencyError(
                f"{folder}: a modular pipeline ({MODULAR_INDEX}), which this backend does not run "
                f"(give the folder of an ordinary pipeline, which has a {INDEX})"
            )
        raise DependencyError(f"{folder}: no Diffusers pipeline, it lacks {INDEX} (give the folder that has one)")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise DependencyError(f"{path}: damaged, not JSON ({exc}) (fetch the model again)") from exc
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise DependencyError(f"{path}: names no pipeline class (fetch the model again)")
    return index
