"""The Diffusers backend on tiny models with random weights: real pipelines, real batches."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from abstractvision_batch.backends import HuggingFaceDiffusersBackendConfig, HuggingFaceDiffusersVisionBackend
from abstractvision_batch.backends.huggingface_diffusers.config import LoraAdapter
from abstractvision_batch.errors import (
    CapabilityNotSupportedError,
    DependencyError,
    GenerationCancelledError,
    GenerationError,
    InvalidOutputError,
)
from abstractvision_batch.media.images import decode_image, encode_image, to_rgb_array
from abstractvision_batch.media.probe import probe
from abstractvision_batch.types import (
    GeneratedAsset,
    ImageEditRequest,
    ImageGenerationRequest,
    ImageToVideoRequest,
    MultiAngleRequest,
    VideoGenerationRequest,
)
from tests.support.tiny_diffusers import gray, levels_apart, make_backend, metadata, pixels, text_request

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def sd(tiny_sd: Path) -> Iterator[HuggingFaceDiffusersVisionBackend]:
    with make_backend(tiny_sd) as backend:
        yield backend


# one forward pass


def test_requests_that_fit_together_share_one_forward_pass(sd: HuggingFaceDiffusersVisionBackend) -> None:
    steps: list[int] = []

    items = sd.generate_batch([text_request(seed) for seed in range(3)], on_step=lambda step, total: steps.append(step))

    assert steps == [1, 2]
    assert [metadata(item)["batch_size"] for item in items] == [3, 3, 3]


def test_a_request_looks_alike_alone_and_in_a_batch(sd: HuggingFaceDiffusersVisionBackend) -> None:
    requests = [text_request(seed) for seed in range(3)]

    together = sd.generate_batch(requests)

    for request, item in zip(requests, together, strict=True):
        assert levels_apart(sd.generate_batch([request])[0], item) <= 1


def test_batch_mates_do_not_change_a_pixel(sd: HuggingFaceDiffusersVisionBackend) -> None:
    first = sd.generate_batch([text_request(1), text_request(2)])
    second = sd.generate_batch([text_request(3), text_request(1)])

    assert levels_apart(first[0], second[1]) == 0


@pytest.mark.parametrize(
    "other",
    [
        {"steps": 3},
        {"guidance_scale": 2.0},
        {"width": 32},
        {"negative_prompt": "blue"},
        {"extra": {"eta": 0.5}},
    ],
)
def test_requests_that_do_not_fit_together_run_apart(
    sd: HuggingFaceDiffusersVisionBackend, other: dict[str, Any]
) -> None:
    items = sd.generate_batch([text_request(1), text_request(2, **other), text_request(3)])

    assert [metadata(item)["batch_size"] for item in items] == [2, 1, 2]


def test_images_of_one_size_share_a_pass_and_others_keep_their_size(sd: HuggingFaceDiffusersVisionBackend) -> None:
    sizes = [(64, 64), (64, 32), (64, 64)]

    items = sd.generate_batch([ImageEditRequest("a fox", image=gray(*size), steps=2, seed=1) for size in sizes])

    assert [pixels(item).shape[1::-1] for item in items] == sizes
    assert [metadata(item)["batch_size"] for item in items] == [2, 1, 2]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"width": 70}, r"width: 70 is not a multiple of 8 \(nearest: 64, 72\)"),
        ({"extra": {"clip_skp": 1}}, r"extra\.clip_skp: unknown \(did you mean clip_skip\?\)"),
        ({"extra": {"num_images_per_prompt": 2}}, r"extra\.num_images_per_prompt: unknown"),
        ({"seed": -1}, r"seed: -1 is not in 0"),
        ({"width": 64, "height": None}, "width and height: give both or neither"),
        ({"extra": {"loras": [{"source": "x", "size": 1}]}}, r"extra\.loras: not a list of"),
    ],
)
def test_a_bad_request_is_an_error_of_its_own(
    sd: HuggingFaceDiffusersVisionBackend, bad: dict[str, Any], message: str
) -> None:
    fields: dict[str, Any] = {"prompt": "a", "width": 64, "height": 64, "steps": 2, "seed": 2} | bad

    good, error, also_good = sd.generate_batch([text_request(1), ImageGenerationRequest(**fields), text_request(3)])

    assert isinstance(error, GenerationError)
    with pytest.raises(GenerationError, match=message):
        raise error
    assert metadata(good)["batch_size"] == metadata(also_good)["batch_size"] == 2


def test_what_only_the_pipeline_can_refuse_fails_one_request(sd: HuggingFaceDiffusersVisionBackend) -> None:
    good, error = sd.generate_batch([text_request(1), text_request(2, extra={"eta": "much"})])

    assert isinstance(good, GeneratedAsset)
    assert isinstance(error, GenerationError)
    assert "StableDiffusionPipeline: TypeError" in str(error)
    assert isinstance(error.__cause__, TypeError)


def test_a_strength_that_leaves_no_step_is_refused(sd: HuggingFaceDiffusersVisionBackend) -> None:
    """Left to the pipeline it is a reshape error deep inside the VAE."""
    (error,) = sd.generate_batch([ImageEditRequest("a fox", image=gray(), steps=2, seed=1, strength=0.1)])

    assert isinstance(error, GenerationError)
    assert str(error) == "strength: 0.1 of 2 steps leaves none (at least 0.5, or 10 steps)"


# what is used is said


def test_metadata_says_what_the_pixels_depend_on(sd: HuggingFaceDiffusersVisionBackend, tiny_sd: Path) -> None:
    said = metadata(sd.generate_batch([text_request(5, guidance_scale=3.0)])[0])

    assert said["versions"].keys() >= {"torch", "diffusers", "transformers"}
    assert said | {"versions": {}} == {
        "source": "diffusers",
        "model_id": "test/tiny",
        "model_path": str(tiny_sd),
        "revision": None,
        "pipeline": "StableDiffusionPipeline",
        "scheduler": "DDIMScheduler",
        "device": "cpu",
        "dtype": "float32",
        "batch_size": 1,
        "versions": {},
        "steps": 2,
        "guidance_scale": 3.0,
        "seed": 5,
    }


def test_a_request_without_a_seed_says_which_one_it_got(sd: HuggingFaceDiffusersVisionBackend) -> None:
    (item,) = sd.generate_batch([ImageGenerationRequest("a", width=64, height=64, steps=2)])

    assert levels_apart(item, sd.generate_batch([text_request(prompt="a", seed=metadata(item)["seed"])])[0]) == 0


def test_defaults_of_the_pipeline_are_said(sd: HuggingFaceDiffusersVisionBackend) -> None:
    assert metadata(sd.generate_batch([text_request()])[0])["guidance_scale"] == 7.5


# images in


def test_an_odd_sized_image_is_cut_down_to_the_models_multiple_and_says_so(
    sd: HuggingFaceDiffusersVisionBackend,
) -> None:
    (item,) = sd.generate_batch([ImageEditRequest("a fox", image=gray(70, 45), steps=2, seed=1)])

    assert pixels(item).shape == (40, 64, 3)
    assert metadata(item)["input_resized_from"] == [70, 45]


def test_an_edit_is_as_large_as_asked(sd: HuggingFaceDiffusersVisionBackend) -> None:
    (item,) = sd.generate_batch([ImageEditRequest("a fox", image=gray(), width=48, height=32, steps=2, seed=1)])

    assert pixels(item).shape == (32, 48, 3)


def test_what_the_mask_keeps_is_the_inputs_pixel_for_pixel(sd: HuggingFaceDiffusersVisionBackend) -> None:
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (32, 0, 64, 64))
    request = ImageEditRequest("a fox", image=gray(), mask=encode_image(mask, "png"), steps=2, seed=1, strength=1.0)

    (item,) = sd.generate_batch([request])

    source = to_rgb_array(decode_image(gray()))
    assert metadata(item)["pipeline"] == "StableDiffusionInpaintPipeline"
    assert np.array_equal(pixels(item)[:, :32], source[:, :32])
    assert not np.array_equal(pixels(item)[:, 32:], source[:, 32:])


def test_pipelines_of_one_model_share_every_weight(sd: HuggingFaceDiffusersVisionBackend) -> None:
    model = sd.loaded()

    text, image, inpaint = (model.pipeline(kind) for kind in ("text_to_image", "image_to_image", "inpaint"))

    assert text.unet is image.unet is inpaint.unet
    assert text.vae is image.vae is inpaint.vae
    assert text.text_encoder is image.text_encoder is inpaint.text_encoder


def test_other_tasks_before_it_do_not_change_a_request(tiny_sd: Path) -> None:
    card = {"text_to_image": "StableDiffusionPipeline", "image_to_image": "StableDiffusionImg2ImgPipeline"}
    with make_backend(tiny_sd, pipelines=card) as backend:
        before = backend.generate_batch([text_request()])
        backend.generate_batch([ImageEditRequest("a fox", image=gray(), steps=3, seed=1)])
        after = backend.generate_batch([text_request()])

    assert levels_apart(before[0], after[0]) == 0


# LoRA


@pytest.fixture
def lora(tiny_sd_lora: Path) -> Path:
    return tiny_sd_lora


def _lora_sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "pytorch_lora_weights.safetensors").read_bytes()).hexdigest()


def test_a_request_with_an_adapter_leaves_later_requests_alone(tiny_sd: Path, lora: Path) -> None:
    """The older library fused adapters into the weights, and every later picture was another one."""
    with make_backend(tiny_sd) as backend:
        before = backend.generate_batch([text_request()])
        with_lora = backend.generate_batch([text_request(extra={"loras": [{"source": str(lora)}]})])
        after = backend.generate_batch([text_request()])
        again = backend.generate_batch([text_request(extra={"loras_json": json.dumps([{"source": str(lora)}])})])

    assert levels_apart(before[0], after[0]) == 0
    assert levels_apart(before[0], with_lora[0]) > 2
    assert levels_apart(with_lora[0], again[0]) == 0
    assert "loras" not in metadata(after[0])
    assert metadata(with_lora[0])["loras"] == [{"source": str(lora), "scale": 1.0, "sha256": _lora_sha256(lora)}]


def test_an_adapter_acts_on_every_kind_of_pipeline(tiny_sd: Path, lora: Path) -> None:
    edit = ImageEditRequest("a fox", image=gray(), steps=4, seed=1, strength=1.0)
    with make_backend(tiny_sd) as plain, make_backend(tiny_sd, loras=(LoraAdapter(str(lora)),)) as adapted:
        assert levels_apart(plain.generate_batch([edit])[0], adapted.generate_batch([edit])[0]) > 0


def test_scale_zero_is_as_if_the_adapter_were_absent(tiny_sd: Path, lora: Path) -> None:
    with make_backend(tiny_sd) as plain, make_backend(tiny_sd, loras=(LoraAdapter(str(lora), scale=0.0),)) as adapted:
        base = plain.generate_batch([text_request()])
        zero = adapted.generate_batch([text_request()])
        half = adapted.generate_batch([text_request(extra={"loras": [{"source": str(lora), "scale": 0.5}]})])
        full = adapted.generate_batch([text_request(extra={"loras": [{"source": str(lora), "scale": 1.0}]})])

    assert levels_apart(base[0], zero[0]) == 0
    assert levels_apart(half[0], full[0]) > 0
    assert levels_apart(half[0], base[0]) > 0


def test_requests_with_and_without_an_adapter_share_a_batch_call(tiny_sd: Path, lora: Path) -> None:
    with make_backend(tiny_sd) as backend:
        alone = backend.generate_batch([text_request()])
        mixed = backend.generate_batch([text_request(extra={"loras": [{"source": str(lora)}]}), text_request()])

    assert levels_apart(mixed[1], alone[0]) == 0
    assert levels_apart(mixed[0], alone[0]) > 2


def test_a_missing_adapter_fails_the_request_that_asked_for_it(sd: HuggingFaceDiffusersVisionBackend) -> None:
    bad, good = sd.generate_batch([text_request(extra={"loras": [{"source": "someone/lora"}]}), text_request()])

    assert isinstance(bad, GenerationError)
    assert "avbatch fetch someone/lora" in str(bad)
    assert isinstance(good, GeneratedAsset)


def test_an_adapter_of_another_model_is_refused(tiny_sd: Path, tiny_flux: Path, lora: Path) -> None:
    with (
        make_backend(tiny_flux, loras=(LoraAdapter(str(lora)),)) as backend,
        pytest.raises(DependencyError, match="lora"),
    ):
        backend.generate_batch([text_request()])


# progress, cancellation, loading


def test_a_running_pass_ends_at_the_next_step_and_the_backend_stays_usable(
    sd: HuggingFaceDiffusersVisionBackend,
) -> None:
    before = sd.generate_batch([text_request()])
    steps: list[int] = []

    items = sd.generate_batch(
        [text_request(1, steps=50), text_request(2, steps=50)],
        on_step=lambda step, total: steps.append(step),
        cancelled=lambda: len(steps) >= 3,
    )

    assert steps == [1, 2, 3]
    assert [type(item) for item in items] == [GenerationCancelledError] * 2
    assert levels_apart(sd.generate_batch([text_request()])[0], before[0]) == 0


def test_threads_are_set_when_the_model_is_loaded(tiny_sd: Path) -> None:
    import torch

    torch.set_num_threads(2)
    with make_backend(tiny_sd, threads=1) as backend:
        backend.preload()

        assert torch.get_num_threads() == 1
        assert backend.environment()["threads"] == 1
        assert backend.environment()["switches"]["torch_threads"] == 1


def test_the_environment_names_the_switches_that_choose_kernels(tiny_sd: Path) -> None:
    import torch

    with make_backend(tiny_sd) as backend:
        before = backend.environment()
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = True
        try:
            after = backend.environment()
        finally:
            torch.use_deterministic_algorithms(False)
            torch.backends.cudnn.benchmark = False

    changed = {name for name, value in after["switches"].items() if value != before["switches"][name]}
    assert changed == {"deterministic_algorithms", "cudnn_benchmark"}
    assert before["cpu_capability"]
    assert before["device_name"]


def test_unload_frees_the_weights(tiny_sd: Path) -> None:
    import gc
    import weakref

    backend = make_backend(tiny_sd)
    backend.generate_batch([text_request(), ImageEditRequest("a fox", image=gray(), steps=2, seed=1)])
    unet = weakref.ref(backend.loaded().base.unet)

    backend.unload()
    gc.collect()

    assert unet() is None


@pytest.mark.slow
def test_nothing_is_written_to_the_terminal_and_no_other_family_is_imported(tiny_sd: Path) -> None:
    code = (
        "import sys\n"
        "from abstractvision_batch.backends import HuggingFaceDiffusersBackendConfig as Config\n"
        "from abstractvision_batch.backends import HuggingFaceDiffusersVisionBackend as Backend\n"
        "from abstractvision_batch.types import ImageGenerationRequest as Request\n"
        f"backend = Backend(Config('a/b', path={str(tiny_sd)!r}))\n"
        "backend.generate_image(Request('a fox', width=64, height=64, steps=2, seed=1))\n"
        "sys.exit('diffusers.pipelines.flux' in sys.modules)"
    )

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_the_card_may_rename_a_parameter(tiny_sd: Path, sd: HuggingFaceDiffusersVisionBackend) -> None:
    """The name is the pipeline's own, so a value that went to another parameter would show."""
    request = text_request(guidance_scale=0.5)
    with make_backend(tiny_sd, rename={"guidance_scale": "guidance_rescale"}) as backend:
        (renamed,) = backend.generate_batch([request])

    (same,) = sd.generate_batch([text_request(extra={"guidance_rescale": 0.5})])
    assert levels_apart(renamed, same) == 0
    assert levels_apart(renamed, sd.generate_batch([request])[0]) > 0


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a host was looked up")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.mark.usefixtures("no_network")
def test_a_model_that_was_not_downloaded_is_an_error_with_the_command(tmp_path: Path) -> None:
    config = HuggingFaceDiffusersBackendConfig("someone/model", cache_dir=str(tmp_path), revision="v1")

    with pytest.raises(DependencyError, match=r"someone/model at v1: .*avbatch fetch someone/model --revision v1"):
        HuggingFaceDiffusersVisionBackend(config).preload()


@pytest.mark.usefixtures("no_network")
def test_a_model_in_the_hub_cache_runs_without_network_and_says_its_commit(tiny_sd: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--someone--model"
    shutil.copytree(tiny_sd, repository / "snapshots" / "abc123")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc123")
    config = HuggingFaceDiffusersBackendConfig("someone/model", cache_dir=str(tmp_path))

    with HuggingFaceDiffusersVisionBackend(config) as backend:
        said = metadata(backend.generate_batch([text_request()])[0])

    assert (said["model_path"], said["revision"]) == ("someone/model", "abc123")


def cut_weights(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])


def drop_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    kept = {name: value for name, value in load_file(weights).items() if not name.startswith("conv_in")}
    save_file(kept, weights)


def swap_weights(folder: Path) -> None:
    shutil.copy(folder / "vae" / "diffusion_pytorch_model.safetensors", folder / "unet")


def break_index(folder: Path) -> None:
    (folder / "model_index.json").write_text("{")


def remove_index(folder: Path) -> None:
    (folder / "model_index.json").unlink()


def name_unknown_class(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "FuturePipeline"}))


def remove_component(folder: Path) -> None:
    shutil.rmtree(folder / "vae")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_weights, "cannot be loaded"),
        (drop_weights, "cannot be loaded"),
        (swap_weights, "cannot be loaded"),
        (break_index, "damaged, not JSON"),
        (remove_index, "lacks model_index.json"),
        (name_unknown_class, "FuturePipeline: not a pipeline of the installed diffusers"),
        (remove_component, "cannot be loaded"),
    ],
)
def test_damaged_files_are_a_missing_dependency(
    tiny_sd: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_sd, folder)
    damage(folder)

    with pytest.raises(DependencyError, match=message):
        make_backend(folder).preload()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"device": "cuda:7"}, DependencyError, r"cuda:7 is not available here \(there are: .*cpu\)"),
        ({"torch_dtype": "float8"}, CapabilityNotSupportedError, "float8 is not one of float32"),
        ({"scheduler": "EulerDiscretScheduler"}, CapabilityNotSupportedError, r"did you mean EulerDiscreteScheduler\?"),
        ({"offload": "model"}, CapabilityNotSupportedError, "needs a GPU"),
        ({"path": "/no/such/folder"}, DependencyError, "no such file or folder"),
        ({"path": "package:models/none"}, DependencyError, "no such file or folder"),
    ],
)
def test_settings_that_do_not_fit_are_refused_when_loading(
    tiny_sd: Path, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    config = HuggingFaceDiffusersBackendConfig("test/tiny", **({"path": str(tiny_sd)} | settings))

    with pytest.raises(error, match=message):
        HuggingFaceDiffusersVisionBackend(config).preload()


def test_the_scheduler_is_chosen_by_name(tiny_sd: Path, sd: HuggingFaceDiffusersVisionBackend) -> None:
    request = text_request(steps=4)
    with make_backend(tiny_sd, scheduler="EulerDiscreteScheduler") as backend:
        (item,) = backend.generate_batch([request])

    assert metadata(item)["scheduler"] == "EulerDiscreteScheduler"
    assert levels_apart(item, sd.generate_batch([request])[0]) > 0


def test_memory_switches_keep_the_picture(tiny_sd: Path, sd: HuggingFaceDiffusersVisionBackend) -> None:
    with make_backend(tiny_sd, attention_slicing=True, vae_slicing=True, vae_tiling=True) as backend:
        items = backend.generate_batch([text_request(1), text_request(2)])

    for item, other in zip(items, sd.generate_batch([text_request(1), text_request(2)]), strict=True):
        assert levels_apart(item, other) <= 2


# output that is no picture


def with_weights(source: Path, folder: Path, change: Callable[[Any], Any]) -> Path:
    """Copy a model and change the last bias of its denoiser."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["conv_out.bias"] = change(tensors["conv_out.bias"])
    save_file(tensors, weights)
    return folder


def test_nan_output_is_an_error_and_not_a_black_image(tiny_sd: Path, tmp_path: Path) -> None:
    folder = with_weights(tiny_sd, tmp_path / "nan", lambda bias: bias * float("nan"))
    with make_backend(folder) as backend:
        (item,) = backend.generate_batch([text_request()])

    assert isinstance(item, InvalidOutputError)
    assert "not finite" in str(item)


def test_what_half_precision_cannot_hold_is_generated_again_in_float32(tiny_sd: Path, tmp_path: Path) -> None:
    """A bias near the largest float16 overflows to infinity in float16 arithmetic and not in float32."""
    import torch

    folder = with_weights(tiny_sd, tmp_path / "large", lambda bias: torch.full_like(bias, 6e4))
    with make_backend(folder, torch_dtype="float16") as backend:
        (item,) = backend.generate_batch([text_request()])
        model = backend.loaded()
        dtypes = {tensor.dtype for tensor in model.base.unet.parameters()}

    assert metadata(item)["retried_fp32"] is True
    assert dtypes == {torch.float16}


def test_without_the_retry_it_is_an_error(tiny_sd: Path, tmp_path: Path) -> None:
    import torch

    folder = with_weights(tiny_sd, tmp_path / "large", lambda bias: torch.full_like(bias, 6e4))
    with make_backend(folder, torch_dtype="float16", auto_retry_fp32=False) as backend:
        (item,) = backend.generate_batch([text_request()])

    assert isinstance(item, InvalidOutputError)


# other families


def test_sdxl_does_text_and_image_to_image(tiny_sdxl: Path) -> None:
    with make_backend(tiny_sdxl) as backend:
        items = backend.generate_batch(
            [text_request(1), text_request(2), ImageEditRequest("a fox", image=gray(), steps=4, seed=1)]
        )

    assert [metadata(item)["batch_size"] for item in items] == [2, 2, 1]
    assert metadata(items[2])["pipeline"] == "StableDiffusionXLImg2ImgPipeline"


def test_flux_wants_multiples_of_sixteen(tiny_flux: Path) -> None:
    with make_backend(tiny_flux) as backend:
        good, also_good, bad = backend.generate_batch([text_request(1), text_request(2), text_request(3, width=72)])

    assert metadata(good)["batch_size"] == metadata(also_good)["batch_size"] == 2
    assert isinstance(bad, GenerationError)
    assert "width: 72 is not a multiple of 16" in str(bad)


def test_wan_makes_a_video_of_the_frames_asked_for(tiny_wan: Path) -> None:
    def request(**fields: Any) -> VideoGenerationRequest:
        settings = {"width": 64, "height": 32, "num_frames": 5, "fps": 5, "steps": 2, "seed": 1}
        return VideoGenerationRequest("a fox", **(settings | fields), extra={"max_sequence_length": 64})

    with make_backend(tiny_wan, pipelines={"text_to_video": "WanPipeline"}) as backend:
        video, bad = backend.generate_batch([request(), request(num_frames=8)])

        assert isinstance(video, GeneratedAsset)
        info = probe(video.data, video.mime_type)
        assert (info.width, info.height, info.frames) == (64, 32, 5)
        assert info.duration_s == pytest.approx(1.0)
        assert isinstance(bad, GenerationError)
        assert "num_frames: 8 is not 4 times n plus 1 (nearest: 5, 9)" in str(bad)
        with pytest.raises(CapabilityNotSupportedError):
            backend.generate_batch([text_request()])


def test_wan_makes_a_video_from_an_image(tiny_wan_image_to_video: Path) -> None:
    request = ImageToVideoRequest(
        gray(64, 32), "a fox", num_frames=5, fps=5, steps=2, seed=1, extra={"max_sequence_length": 64}
    )
    with make_backend(tiny_wan_image_to_video, pipelines={"image_to_video": "WanImageToVideoPipeline"}) as backend:
        items = backend.generate_batch([request, request])

    for item in items:
        assert isinstance(item, GeneratedAsset)
        assert probe(item.data, item.mime_type).frames == 5


# views


def test_every_angle_is_an_edit_of_the_reference_in_one_pass(sd: HuggingFaceDiffusersVisionBackend) -> None:
    request = MultiAngleRequest("a fox", gray(64, 32), angles=("front", "back"), steps=4, seed=1)

    (views,) = sd.generate_batch([request])

    assert isinstance(views, list)
    assert [(view.metadata["angle"], view.metadata["batch_size"]) for view in views] == [("front", 2), ("back", 2)]
    assert {view.metadata["pipeline"] for view in views} == {"StableDiffusionImg2ImgPipeline"}
    assert levels_apart(views[0], views[1]) > 0


def test_without_a_reference_one_is_generated_first(sd: HuggingFaceDiffusersVisionBackend) -> None:
    request = MultiAngleRequest("a fox", angles=("front",), steps=4, seed=1, width=64, height=64)
    reference = sd.generate_image(ImageGenerationRequest("a fox", width=64, height=64, steps=4, seed=1))

    (made,) = sd.generate_angles(request)
    (given,) = sd.generate_angles(replace(request, reference_image=reference.data))

    assert made.mime_type == "image/png"
    assert levels_apart(made, given) == 0


@pytest.mark.slow
def test_the_angles_adapter_acts_on_views_alone(tiny_sd: Path, lora: Path) -> None:
    request = MultiAngleRequest("a fox", gray(), angles=("front",), steps=4, seed=1)
    with make_backend(tiny_sd) as plain, make_backend(tiny_sd, angles_lora=str(lora)) as turning:
        text = [backend.generate_batch([text_request()])[0] for backend in (plain, turning)]
        views = turning.generate_angles(request)
        after = turning.generate_batch([text_request()])[0]

    assert levels_apart(text[0], text[1]) == levels_apart(text[1], after) == 0
    assert views[0].metadata["loras"] == [{"source": str(lora), "scale": 1.0, "sha256": _lora_sha256(lora)}]
