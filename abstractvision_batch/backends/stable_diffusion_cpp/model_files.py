"""Files of weights, checked by their headers before any process starts: present, whole, of a known kind.

The native library answers a bad file with a crash or a long wait, so what a header can tell is told here. Headers of
safetensors and GGUF also say what the model is.

Weights are hashed here too: the files that the configuration names, and a fixed few of a Diffusers folder.

Not covered: LoRAs that a prompt or a request's `extra` names (their hashes are in its row); values of tensors; whether
components fit each other (the library's log says that).
"""

from __future__ import annotations

import json
import math
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from abstractvision_batch.backends.stable_diffusion_cpp.config import StableDiffusionCppBackendConfig
from abstractvision_batch.errors import DependencyError
from abstractvision_batch.registry.weights import OF_A_SET, Weights, WeightsPart, hash_part
from abstractvision_batch.storage.regular import open_regular

#: Extensions that the library loads.
EXTENSIONS = (".safetensors", ".gguf", ".ckpt", ".pt", ".pth", ".sft", ".bin")
_MAX_HEADER_BYTES = 100 << 20
#: Elements and bytes of one block by GGML type; what is missing is not measured.
_GGML_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 30: (1, 2),
}  # fmt: skip
_GGUF_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True, slots=True)
class ModelFile:
    """What a file's header says; no tensors where the format keeps them elsewhere."""

    path: str
    format: str
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    architecture: str | None = None

    def has(self, *parts: str) -> bool:
        """Whether some tensor's name has one of these parts."""
        return any(part in name for name in self.shapes for part in parts)


def inspect_file(path: str, name: str) -> ModelFile:
    """Read the header of a file of weights; `name` is what messages call it.

    Raises:
        DependencyError: it is missing, empty, truncated, or of no known kind.
    """
    file = Path(path)
    try:
        if file.is_dir():
            return _inspect_folder(file, name)
        size = file.stat().st_size
        if size == 0:
            raise DependencyError(f"{name}: {path} is empty (download it again)")
        with open_regular(file) as stream:
            start = stream.read(8)
            stream.seek(0)
            if start[:4] == b"GGUF":
                return _inspect_gguf(stream, size, path)
            if start[:4] == b"PK\x03\x04":
                if not zipfile.is_zipfile(stream):
                    raise _TruncatedError("its end is missing")
                return ModelFile(path, "ckpt")
            if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04"):
                return ModelFile(path, "ckpt")
            return _inspect_safetensors(stream, size, path)
    except FileNotFoundError as exc:
        raise DependencyError(f"{name}: {path} is not there (download it, or name another file)") from exc
    except OSError as exc:
        raise DependencyError(f"{name}: {path} cannot be read ({exc.strerror or exc})") from exc
    except _TruncatedError as exc:
        raise DependencyError(f"{name}: {path} is truncated: {exc} (download it again)") from exc
    except (ValueError, struct.error, RecursionError) as exc:
        raise DependencyError(
            f"{name}: {path} is neither safetensors, nor GGUF, nor a PyTorch checkpoint ({exc}; name another file)"
        ) from exc


def require_whole_model(files: Mapping[str, ModelFile]) -> None:
    """Check that the files of one model are enough; some models would crash at the first request otherwise.

    Raises:
        DependencyError: none is given, or one is missing.
    """
    main = files.get("model") or files.get("diffusion_model")
    if main is None:
        raise DependencyError("no model: give a file of the whole model, or a diffusion_model with its components")
    if main.architecture in ("qwen_image", "qwen_image_edit"):
        lacking = [name for name in ("vae", "llm") if name not in files]
        if lacking:
            raise DependencyError(f"{main.path} is Qwen-Image, which needs {' and '.join(lacking)} (give their files)")
    encoders = {"clip_l", "t5xxl", "llm"} & set(files)
    own = main.has("text_encoder", "cond_stage_model", "conditioner.embedders")
    if main.has("double_blocks.0.") and not encoders and not own:
        raise DependencyError(f"{main.path} has no text encoder (give clip_l and t5xxl, or llm)")


def side_multiple(main: ModelFile) -> int:
    """What width and height must be a multiple of: 64 for a UNet, at least 8 for a transformer."""
    return 64 if main.format == "diffusers" or main.has("input_blocks.0.0.") else 8


def video_tasks(main: ModelFile) -> tuple[str, ...]:
    """The video tasks of a Wan model, by the channels that it takes in; none for any other model."""
    for name, shape in main.shapes.items():
        if name.endswith("patch_embedding.weight") and len(shape) >= 4 and main.has("time_projection"):
            channels = shape[1] if main.format == "safetensors" else 0  # GGUF folds five dimensions into four
            by_channels = {16: ("text_to_video",), 36: ("image_to_video",)}
            return by_channels.get(channels, ("text_to_video", "image_to_video"))
    return ()


class _TruncatedError(Exception):
    """The header promises more bytes than there are."""


def _inspect_folder(folder: Path, name: str) -> ModelFile:
    if not (folder / "unet").is_dir():
        raise DependencyError(f"{name}: {folder} is a folder without unet/ (name a file, or a Diffusers UNet model)")
    return ModelFile(str(folder), "diffusers")


def _inspect_safetensors(stream: BinaryIO, size: int, path: str) -> ModelFile:
    (length,) = struct.unpack("<Q", _read(stream, 8))
    if not 2 <= length <= _MAX_HEADER_BYTES:
        raise ValueError("its first bytes are no header")
    header = json.loads(_read(stream, length))
    if not isinstance(header, dict):
        raise ValueError("its header is no table of tensors")
    tensors = {key: value for key, value in header.items() if key != "__metadata__"}
    try:
        end = max((int(tensor["data_offsets"][1]) for tensor in tensors.values()), default=0)
        shapes = {key: tuple(map(int, tensor["shape"])) for key, tensor in tensors.items()}
    except (KeyError, TypeError, IndexError) as exc:
        raise ValueError("its header is no table of tensors") from exc
    if size < 8 + length + end:
        raise _TruncatedError(f"{size:,} of {8 + length + end:,} bytes")
    return ModelFile(path, "safetensors", shapes)


def _inspect_gguf(stream: BinaryIO, size: int, path: str) -> ModelFile:
    _read(stream, 4)
    version, tensors, pairs = struct.unpack("<IQQ", _read(stream, 20))
    if version not in (2, 3) or tensors > 1_000_000 or pairs > 1_000_000:
        raise ValueError(f"GGUF version {version} with {tensors} tensors")
    facts: dict[str, Any] = {}
    for _ in range(pairs):
        key = _gguf_text(stream)
        (kind,) = struct.unpack("<I", _read(stream, 4))
        facts[key] = _gguf_value(stream, kind)
    shapes: dict[str, tuple[int, ...]] = {}
    end = 0
    for _ in range(tensors):
        key = _gguf_text(stream)
        (rank,) = struct.unpack("<I", _read(stream, 4))
        shape = struct.unpack(f"<{rank}Q", _read(stream, 8 * rank))
        kind, offset = struct.unpack("<IQ", _read(stream, 12))
        elements, block_bytes = _GGML_BLOCKS.get(kind, (1, 0))
        end = max(end, offset + math.prod(shape) // elements * block_bytes)
        shapes[key] = shape
    alignment = facts.get("general.alignment", 32)
    start = -(-stream.tell() // alignment) * alignment
    if size < start + end:
        raise _TruncatedError(f"{size:,} of {start + end:,} bytes")
    architecture = facts.get("general.architecture")
    return ModelFile(path, "gguf", shapes, architecture if isinstance(architecture, str) else None)


def _gguf_text(stream: BinaryIO) -> str:
    (length,) = struct.unpack("<Q", _read(stream, 8))
    if length > _MAX_HEADER_BYTES:
        raise ValueError("a GGUF text is too long")
    return _read(stream, length).decode(errors="replace")


def _gguf_value(stream: BinaryIO, kind: int) -> Any:
    if kind == 8:
        return _gguf_text(stream)
    if kind == 9:
        inner, count = struct.unpack("<IQ", _read(stream, 12))
        if count > _MAX_HEADER_BYTES:
            raise ValueError("a GGUF list is too long")
        return [_gguf_value(stream, inner) for _ in range(count)]
    if kind not in _GGUF_SCALARS:
        raise ValueError(f"GGUF value of type {kind}")
    form = "<" + _GGUF_SCALARS[kind]
    return struct.unpack(form, _read(stream, struct.calcsize(form)))[0]


def _read(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise _TruncatedError("its header is cut off")
    return data


#: Of a Diffusers folder the library reads these names alone.
_OF_A_FOLDER = (
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
    "text_encoder_2/model.safetensors",
)


def describe_weights(config: StableDiffusionCppBackendConfig) -> Weights:
    """Hash the files of the model and of the configuration's LoRAs.

    Raises:
        DependencyError: one is not there.
    """
    named = config.weights() | {f"lora {number}": lora.source for number, lora in enumerate(config.loras, 1)}
    for name, loras in config.lora_sets.items():
        named |= {f"{OF_A_SET}{name} {number}": lora.source for number, lora in enumerate(loras, 1)}
    return Weights(tuple(_describe(name, source, config.cwd) for name, source in named.items()))


def _describe(name: str, source: str, cwd: str | None) -> WeightsPart:
    path = Path(cwd or "") / Path(source).expanduser()
    if path.is_dir():
        return hash_part(name, source, path, [file for part in _OF_A_FOLDER if (file := path / part).is_file()])
    if not path.is_file():
        raise DependencyError(f"{name}: {path} is not there (download it, or name another file)")
    return hash_part(name, source, path.parent, [path])
