"""From a model's folder, or a checkpoint of one file, to a Diffusers pipeline on a device.

Of a checkpoint, configuration, tokenizers and what the file lacks come from a local folder; Diffusers would guess a hub
repository from the weights' names and fetch it.

Not covered: finding the folder (`locate`), further pipelines over the same weights (`loaded_model`).
"""

from __future__ import annotations

import inspect
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.loaders.single_file_utils import SingleFileComponentError
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from abstractvision_batch.backends.huggingface_diffusers.config import HuggingFaceDiffusersBackendConfig
from abstractvision_batch.backends.huggingface_diffusers.families import TILED
from abstractvision_batch.backends.huggingface_diffusers.locate import (
    DENOISERS,
    DESCRIPTIONS,
    INDEX,
    ModelFiles,
    fetch_snapshot,
    find_folder,
    find_model,
    has_decoder,
    needs_configuration,
)
from abstractvision_batch.backends.huggingface_diffusers.tuning import (
    check_quantization,
    quantize_pipeline,
    tune,
)
from abstractvision_batch.errors import CapabilityNotSupportedError, DependencyError, OptionalDependencyMissingError

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_ALIASES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}

#: What Diffusers, Transformers and Safetensors raise for files that are missing, cut short or of another model.
LOAD_ERRORS = (
    OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError, EOFError, SafetensorError
)  # fmt: skip


def resolve_device(name: str) -> torch.device:
    """Choose a device.

    Raises:
        DependencyError: this machine or this torch build has no such device.
    """
    wanted = (name or "auto").lower().replace("gpu", "cuda")
    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.insert(0, "mps")
    if torch.cuda.is_available():
        available = ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count())), *available]
    if wanted in ("auto", "default"):
        return torch.device(available[0])
    if wanted not in available:
        raise DependencyError(f"backend.device: {name} is not available here (there are: {', '.join(available)})")
    return torch.device(wanted)


def resolve_dtype(config: HuggingFaceDiffusersBackendConfig, device: torch.device) -> torch.dtype:
    """Choose the weights' dtype: what was asked, else the model's native one on a GPU and float32 on a CPU.

    Raises:
        CapabilityNotSupportedError: the name is no dtype that weights can have.
    """
    name = config.torch_dtype
    if name is None or name == "auto":
        name = "float32" if device.type == "cpu" else (config.native_dtype or "bfloat16")
    name = _ALIASES.get(name, name.removeprefix("torch."))
    if name not in DTYPES:
        raise CapabilityNotSupportedError(f"backend.dtype: {name} is not one of {', '.join(DTYPES)}")
    return DTYPES[name]


def get_pipeline_class(name: str) -> Any:
    """Return a Diffusers pipeline class by name.

    Raises:
        DependencyError: the installed Diffusers has none of this name.
    """
    found = getattr(diffusers, name, None)
    if "Modular" in name:
        raise DependencyError(
            f"{name}: a modular pipeline, which this backend does not run (give a repository or folder of an ordinary "
            f"pipeline, whose {INDEX} names one)"
        )
    if not (isinstance(found, type) and issubclass(found, diffusers.DiffusionPipeline)):
        raise DependencyError(
            f"{name}: not a pipeline of the installed diffusers {diffusers.__version__} (pip install -U diffusers)"
        )
    return found


def load_pipeline(config: HuggingFaceDiffusersBackendConfig, class_name: str | None) -> tuple[Any, ModelFiles]:
    """Load a model's pipeline onto its device.

    Args:
        config: The model and how to run it.
        class_name: Pipeline class; None takes the one that the model was saved from.

    Raises:
        DependencyError: the model is absent, damaged, of the wrong kind, or too large for the device.
        OptionalDependencyMissingError: the model or the quantisation needs a package that is not installed.
        CapabilityNotSupportedError: the offloading or kernels that were asked for do not fit.
    """
    torch.set_num_threads(config.threads)
    device = resolve_device(config.device)
    dtype = resolve_dtype(config, device)
    if config.offload != "none" and device.type == "cpu":
        raise CapabilityNotSupportedError(f"backend.offload: {config.offload} needs a GPU, and the device is the CPU")
    check_quantization(config, device)
    with quiet():
        model = _download(config) if config.allow_download else find_model(config)
        try:
            pipeline = _read_pipeline(get_pipeline_class(class_name or model.pipeline_class), model, config, dtype)
            _check_complete(pipeline)
            pipeline.set_progress_bar_config(disable=True)
            for name in DENOISERS:
                if pipeline.components.get(name) is not None:
                    tune(pipeline.components[name], config)
            place(pipeline, config, device)
        except torch.OutOfMemoryError as exc:
            raise DependencyError(
                f"{model.name}: does not fit into the memory of {device} (backend.offload: model, or a smaller dtype)"
            ) from exc
        except (ImportError, NameError) as exc:  # what one family needs: torchvision, ftfy, sentencepiece
            raise OptionalDependencyMissingError(
                f"{model.name}: a package is not installed: {short(exc)} ({_mend(exc)})"
            ) from exc
        except LOAD_ERRORS as exc:
            raise DependencyError(
                f"{model.name}: its files cannot be loaded from {model.checkpoint or model.folder}: {short(exc)} "
                "(fetch the model again)"
            ) from exc
    return pipeline, model


def load_module(module_class: Any, folder: Path, subfolder: str, dtype: torch.dtype, **settings: Any) -> Any:
    """Load one component: from its own folder inside `folder`, or from `folder` itself."""
    inside = folder / subfolder
    typed = {"dtype": dtype} if issubclass(module_class, torch.nn.Module) else {}
    source = str(inside if inside.is_dir() else folder)
    return module_class.from_pretrained(source, local_files_only=True, **typed, **settings)


def _read_pipeline(
    pipeline_class: Any, model: ModelFiles, config: HuggingFaceDiffusersBackendConfig, dtype: torch.dtype
) -> Any:
    components: dict[str, Any] = {}
    for name, source in config.components.items():
        fetch_snapshot(source, config)
        folder = find_folder(source, config.cache_dir)
        components[name] = load_module(_component_class(pipeline_class, model, name), folder, name, dtype)
    if model.checkpoint is not None:
        return load_checkpoint(pipeline_class, model, dtype=dtype, components=components)
    return pipeline_class.from_pretrained(
        str(model.folder),
        dtype=dtype,
        local_files_only=True,
        use_safetensors=config.use_safetensors,
        low_cpu_mem_usage=config.low_cpu_mem_usage,
        **components,
        **quantize_pipeline(config, list(model.index), dtype),
        **({"variant": config.variant} if config.variant else {}),
    )


def _component_class(pipeline_class: Any, model: ModelFiles, name: str) -> Any:
    """Return the class that the model's index names, else that of the pipeline's own parameter."""
    library, class_name = (model.index.get(name) or (None, None))[:2]
    if library is not None and class_name is not None:
        return getattr(diffusers if library == "diffusers" else import_module(library), class_name)
    if name.startswith("tokenizer"):
        return import_module("transformers").AutoTokenizer
    parameter = inspect.signature(pipeline_class.__init__).parameters.get(name)
    if parameter is None or not hasattr(parameter.annotation, "from_pretrained"):
        raise ValueError(f"{name}: neither the model's index nor {pipeline_class.__name__} names a class for it")
    return parameter.annotation


def place(pipeline: Any, config: HuggingFaceDiffusersBackendConfig, device: torch.device) -> None:
    """Move a pipeline to its device, or leave its weights where they wait for their turn."""
    if config.offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif config.offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=device)
    else:
        pipeline.to(device)
    if config.attention_slicing:
        pipeline.enable_attention_slicing()
    if config.vae_slicing:
        pipeline.vae.enable_slicing()
    if config.vae_tiling or type(pipeline).__name__ in TILED:
        pipeline.vae.enable_tiling()


def short(exc: BaseException) -> str:
    """Return a foreign error as one line of at most 300 characters."""
    return f"{type(exc).__name__}: {' '.join(str(exc).split())[:300]}"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Diffusers and Transformers from writing progress bars and advice while something loads or runs."""
    states = [
        (log, log.get_verbosity(), log.is_progress_bar_enabled()) for log in (diffusers_logging, transformers_logging)
    ]
    for log, _, _ in states:
        log.set_verbosity(log.ERROR + 10)  # ERROR itself is used for advice on optional packages
        log.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"diffusers|transformers|peft")
            warnings.filterwarnings("ignore", category=UserWarning, module=r"diffusers|transformers|peft")
            yield
    finally:
        for log, verbosity, bars in states:
            log.set_verbosity(verbosity)
            if bars:
                log.enable_progress_bar()


def _mend(exc: ImportError | NameError) -> str:
    """Name the command that installs what is missing.

    Diffusers leaves out what needs an absent package, so a NameError is that of a name which was never defined.
    """
    missing = str(exc).lower()
    known = [name for name in ("ftfy", "sentencepiece", "bitsandbytes", "torchao") if name in missing]
    return f"pip install {known[0] if known else 'torchvision'}"


def _download(config: HuggingFaceDiffusersBackendConfig) -> ModelFiles:
    """Fetch what is missing of a model into the hub cache, then find it there."""
    repo_id = config.repo_id or config.model_id
    if config.path is None and config.subfolder is None and not Path(repo_id).expanduser().is_dir():
        try:
            diffusers.DiffusionPipeline.download(
                repo_id,
                cache_dir=config.cache_dir,
                revision=config.revision,
                use_safetensors=config.use_safetensors,
                **({"variant": config.variant} if config.variant else {}),
            )
        except LOAD_ERRORS as exc:
            raise DependencyError(
                f"{config.model_id}: download failed: {short(exc)} (hf auth login, if gated)"
            ) from exc
    elif config.path is None:
        fetch_snapshot(repo_id, config, revision=config.revision, patterns=[f"{config.subfolder}/*"])
    elif needs_configuration(config):
        fetch_snapshot(repo_id, config, revision=config.revision, patterns=list(DESCRIPTIONS))
    return find_model(config)


def _check_complete(pipeline: Any) -> None:
    """A weight that no file held stays without storage, and would fail late or not at all."""
    for name, component in pipeline.components.items():
        if isinstance(component, torch.nn.Module):
            missing = [key for key, value in component.named_parameters() if value.is_meta]
            if missing:
                raise ValueError(f"{name} lacks {len(missing)} weights, the first is {missing[0]}")


def load_checkpoint(pipeline_class: Any, model: ModelFiles, *, dtype: Any, components: dict[str, Any]) -> Any:
    """Load a pipeline from a checkpoint; a file with the denoiser alone (Flux's) takes the rest from the folder.

    Raises:
        ValueError: the file is none, is cut short, or is of another model.
    """
    if not hasattr(pipeline_class, "from_single_file"):
        raise ValueError(f"{pipeline_class.__name__} cannot be loaded from one file")
    settings = {"dtype": dtype, "local_files_only": True}
    try:
        if model.checkpoint is None or has_decoder(model.checkpoint):
            return pipeline_class.from_single_file(
                str(model.checkpoint), config=str(model.folder), **settings, **components
            )
        name = next(name for name in DENOISERS if name in model.index)
        denoiser_class = getattr(diffusers, model.index[name][1])
        denoiser = denoiser_class.from_single_file(
            str(model.checkpoint), config=str(model.folder), subfolder=name, **settings
        )
    except (SingleFileComponentError, pickle.UnpicklingError) as exc:
        raise ValueError(str(exc)) from exc
    return pipeline_class.from_pretrained(str(model.folder), **settings, **components, **{name: denoiser})
