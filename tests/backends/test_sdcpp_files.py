"""Files of weights, told good from bad by their headers alone: nothing is started for a bad one."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from abstractvision_batch.backends import StableDiffusionCppBackendConfig, StableDiffusionCppVisionBackend
from abstractvision_batch.backends.stable_diffusion_cpp.model_files import (
    inspect_file,
    require_whole_model,
    side_multiple,
    video_tasks,
)
from abstractvision_batch.errors import CapabilityNotSupportedError, DependencyError
from abstractvision_batch.types import ImageGenerationRequest, MultiAngleRequest, VideoGenerationRequest


def safetensors(shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    """A safetensors file of zeros."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = int(np.prod(shape)) * 2
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    head = json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + bytes(end)


def gguf(architecture: str, shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    """A GGUF file of float16 zeros."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    data = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), 2)
    data += text("general.architecture") + struct.pack("<I", 8) + text(architecture)
    data += text("some.list") + struct.pack("<IIQ", 9, 4, 2) + struct.pack("<II", 1, 2)
    end = 0
    for name, shape in shapes.items():
        data += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        data += struct.pack("<IQ", 1, end)
        end += int(np.prod(shape)) * 2
    return data + bytes(-len(data) % 32) + bytes(end)


TENSORS = {"model.diffusion_model.img_in.weight": (8, 4)}
BAD_FILES = {
    "empty": (b"", "is empty"),
    "garbage": (bytes(range(255, 0, -1)) * 9, "neither safetensors, nor GGUF, nor a PyTorch checkpoint"),
    "an error page": (b"<!DOCTYPE html><title>404</title>", "neither safetensors"),
    "a pointer of git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "neither safetensors"),
    "cut safetensors": (safetensors(TENSORS)[:-1], r"is truncated: 170 of 171 bytes"),
    "cut header": (safetensors(TENSORS)[:40], "is truncated: its header is cut off"),
    "a header of something else": (struct.pack("<Q", 2) + b"[]", "its header is no table of tensors"),
    "cut GGUF": (gguf("flux", TENSORS)[:-1], "is truncated"),
    "cut GGUF header": (gguf("flux", TENSORS)[:60], "is truncated: its header is cut off"),
    "cut checkpoint": (b"PK\x03\x04" + bytes(100), "is truncated: its end is missing"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_named_with_what_is_wrong(case: str, tmp_path: Path) -> None:
    data, said = BAD_FILES[case]
    file = tmp_path / "m.safetensors"
    file.write_bytes(data)
    backend = StableDiffusionCppVisionBackend(StableDiffusionCppBackendConfig(sd_cli_path="/none", model=str(file)))

    with pytest.raises(DependencyError, match=f"^model: .*m.safetensors .*{said}"):
        backend.generate_image(ImageGenerationRequest("a fox"))


def test_a_missing_file_and_a_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DependencyError, match=r"vae: .*none\.gguf is not there"):
        inspect_file(str(tmp_path / "none.gguf"), "vae")
    with pytest.raises(DependencyError, match=r"is a folder without unet/"):
        inspect_file(str(tmp_path), "model")


def test_good_headers_say_what_the_model_is(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(safetensors(TENSORS))
    (tmp_path / "m.gguf").write_bytes(gguf("qwen_image", TENSORS))

    plain, quantised = (inspect_file(str(tmp_path / name), "model") for name in ("m.safetensors", "m.gguf"))

    assert (plain.format, dict(plain.shapes)) == ("safetensors", TENSORS)
    assert (quantised.format, quantised.architecture, set(quantised.shapes)) == ("gguf", "qwen_image", set(TENSORS))


def test_qwen_image_needs_its_components(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(gguf("qwen_image", TENSORS))
    files = {"diffusion_model": inspect_file(str(tmp_path / "m.gguf"), "diffusion_model")}

    with pytest.raises(DependencyError, match="is Qwen-Image, which needs vae and llm"):
        require_whole_model(files)


def test_flux_without_a_text_encoder_is_refused(tmp_path: Path) -> None:
    """The library loads it and crashes at the first prompt."""
    (tmp_path / "flux").write_bytes(safetensors({"double_blocks.0.img_mod.lin.weight": (2, 2)}))
    flux = inspect_file(str(tmp_path / "flux"), "diffusion_model")

    with pytest.raises(DependencyError, match="has no text encoder"):
        require_whole_model({"diffusion_model": flux})
    require_whole_model({"diffusion_model": flux, "t5xxl": flux})


def test_no_model_at_all_is_an_error() -> None:
    backend = StableDiffusionCppVisionBackend(StableDiffusionCppBackendConfig(vae=__file__, sd_cli_path="/none"))

    with pytest.raises(DependencyError, match=r"vae: .* is neither safetensors"):
        backend.check_ready()
    with pytest.raises(DependencyError, match="no model: give a file"):
        StableDiffusionCppVisionBackend(StableDiffusionCppBackendConfig()).check_ready()


@pytest.mark.parametrize(
    ("channels", "tasks"),
    [(16, {"text_to_video"}), (36, {"image_to_video"}), (48, {"text_to_video", "image_to_video"})],
)
def test_wan_makes_the_videos_that_its_input_channels_allow(channels: int, tasks: set[str], tmp_path: Path) -> None:
    file = tmp_path / "wan.safetensors"
    shapes = {"patch_embedding.weight": (4, channels, 1, 2, 2), "time_projection.1.weight": (4, 4)}
    file.write_bytes(safetensors(shapes))

    backend = StableDiffusionCppVisionBackend(StableDiffusionCppBackendConfig(model=str(file)))

    assert set(video_tasks(inspect_file(str(file), "model"))) == tasks
    assert set(backend.get_capabilities().supported_tasks or ()) == tasks
    with pytest.raises(CapabilityNotSupportedError, match=r"does .*to_video.*, not text_to_image"):
        backend.generate_image(ImageGenerationRequest("a fox"))


def test_an_image_model_refuses_videos_and_views(tmp_path: Path) -> None:
    """sd-cli aborts instead."""
    (tmp_path / "m.safetensors").write_bytes(safetensors(TENSORS))
    config = StableDiffusionCppBackendConfig(model=str(tmp_path / "m.safetensors"))
    backend = StableDiffusionCppVisionBackend(config)

    with pytest.raises(CapabilityNotSupportedError, match="does text_to_image and image_to_image, not text_to_video"):
        backend.generate_video(VideoGenerationRequest("a fox"))
    with pytest.raises(CapabilityNotSupportedError, match="not multi_view_image"):
        backend.generate_angles(MultiAngleRequest("a fox"))


def test_a_unet_wants_sides_in_multiples_of_64(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(safetensors({"model.diffusion_model.input_blocks.0.0.weight": (2, 2)}))

    assert side_multiple(inspect_file(str(tmp_path / "m"), "model")) == 64
