"""The older library's documentation: its snippets run as written, with the package renamed, and its promises hold."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import pytest

import abstractvision_batch
from abstractvision_batch import LocalAssetStore, VisionManager, VisionModelCapabilitiesRegistry, is_artifact_ref
from abstractvision_batch.backends import (
    HuggingFaceDiffusersBackendConfig,
    ProceduralVisionBackend,
    VisionBackend,
)
from abstractvision_batch.errors import (
    BackendNotConfiguredError,
    CapabilityNotSupportedError,
    OptionalDependencyMissingError,
    UnknownModelError,
)
from abstractvision_batch.media.images import decode_image
from abstractvision_batch.types import ImageEditRequest, ImageGenerationRequest
from tests.support.openai_server import running_server


def run_snippet(text: str, **names: Any) -> dict[str, Any]:
    """Run a snippet as the documentation has it, after the one change that this project makes to it."""
    renamed = text.replace("from abstractvision", "from abstractvision_batch")
    exec(compile(renamed, "<snippet>", "exec"), names)
    return names


REGISTRY = """
from abstractvision import VisionModelCapabilitiesRegistry

reg = VisionModelCapabilitiesRegistry()
print(reg.list_tasks())
print(reg.models_for_task("text_to_image"))

reg.require_support("{model}", "text_to_image")
"""


@pytest.mark.parametrize("model", ["Qwen/Qwen-Image-2512", "runwayml/stable-diffusion-v1-5"])
def test_the_registry_snippet_lists_tasks_and_models(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    run_snippet(REGISTRY.format(model=model))

    tasks, models = capsys.readouterr().out.splitlines()
    assert "'multi_view_image'" in tasks
    assert f"'{model}'" in models


DIFFUSERS = """
from abstractvision import VisionManager
from abstractvision.backends import HuggingFaceDiffusersBackendConfig, HuggingFaceDiffusersVisionBackend

backend = HuggingFaceDiffusersVisionBackend(
    config=HuggingFaceDiffusersBackendConfig(
        model_id="runwayml/stable-diffusion-v1-5",
        device="auto",
        allow_download=False,
    )
)
vm = VisionManager(backend=backend)
asset = vm.generate_image("a watercolor painting of a lighthouse", width=512, height=512, steps=10)
"""


def save_tiny_stable_diffusion(folder: Path) -> None:
    """Save a pipeline of Stable Diffusion's classes with the shipped model's text encoder and few random weights."""
    import diffusers

    shipped = Path(abstractvision_batch.__file__).parent / "models" / "shapes64"
    parts: Any = diffusers.StableDiffusionPipeline.from_pretrained(shipped)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4, 4, 4, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=2,
        mid_block_add_attention=False,
    )
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=parts.text_encoder.config.hidden_size,
    )
    diffusers.StableDiffusionPipeline(
        vae=vae,
        unet=unet,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        scheduler=parts.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


@pytest.mark.model
def test_the_diffusers_snippet_finds_a_downloaded_model_without_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "models--runwayml--stable-diffusion-v1-5"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    save_tiny_stable_diffusion(repository / "snapshots" / ("0" * 40))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))

    asset = run_snippet(DIFFUSERS)["asset"]

    assert (asset.media_type, asset.mime_type) == ("image", "image/png")
    assert asset.metadata["generation"]["parameters"]["steps"] == 10
    assert asset.metadata["generation"]["seed"] == asset.metadata["seed"], "nobody asked for a seed, so it is reported"


EXTRA = """
asset_or_ref = vm.generate_image(
    "a product photo of a matte black espresso machine",
    steps=8,
    guidance_scale=1.0,
    extra={
        # Example keys used by some Diffusers flows:
        "loras_json": [{"source": "lightx2v/Qwen-Image-Edit-2511-Lightning", "scale": 1.0}],
        "rapid_aio_repo": "linoyts/Qwen-Image-Edit-Rapid-AIO",
    },
)
"""


def test_the_extra_snippet_reaches_the_backend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    store = LocalAssetStore()

    ref = run_snippet(EXTRA, vm=VisionManager(backend=ProceduralVisionBackend(), store=store))["asset_or_ref"]

    assert is_artifact_ref(ref)
    assert ref["metadata"]["generation"]["parameters"]["extra"]["loras_json"][0]["scale"] == 1.0


MINIMAL = """
from abstractvision import LocalAssetStore, VisionManager, is_artifact_ref
from abstractvision.backends import OpenAICompatibleBackendConfig, OpenAICompatibleVisionBackend

backend = OpenAICompatibleVisionBackend(
    config=OpenAICompatibleBackendConfig(base_url="http://localhost:1234/v1")
)
store = LocalAssetStore()
vm = VisionManager(backend=backend, store=store)

ref = vm.generate_image("a studio photo of an espresso machine", width=768, height=768, steps=20)
assert is_artifact_ref(ref)
png_bytes = store.load_bytes(ref["$artifact"])
"""


def test_the_minimal_example_stores_what_the_server_draws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with running_server() as server:
        names = run_snippet(MINIMAL.replace("http://localhost:1234/v1", server.base_url))
        names["backend"].close()

    assert server.last.fields["steps"] == 20
    assert decode_image(names["png_bytes"]).size == (768, 768)
    (path,) = (tmp_path / ".abstractvision" / "assets").glob("*.png")
    assert path.read_bytes() == names["png_bytes"]


CATALOG = """
from abstractvision.backends import OpenAICompatibleBackendConfig, OpenAICompatibleVisionBackend

backend = OpenAICompatibleVisionBackend(
    config=OpenAICompatibleBackendConfig(base_url="http://localhost:1234/v1")
)
for model in backend.list_provider_models(task="text_to_image"):
    print(model.id)
"""


def test_the_catalog_snippet_prints_the_servers_models(capsys: pytest.CaptureFixture[str]) -> None:
    with running_server() as server:
        names = run_snippet(CATALOG.replace("http://localhost:1234/v1", server.base_url))
        names["backend"].close()

    assert capsys.readouterr().out == "a-model\n"


def test_the_documented_names_are_where_the_documentation_says() -> None:
    homes = {
        "vision_manager": ["VisionManager"],
        "model_capabilities": ["VisionModelCapabilitiesRegistry"],
        "artifacts": ["LocalAssetStore", "RuntimeArtifactStoreAdapter", "is_artifact_ref", "make_media_ref"],
        "types": ["ImageGenerationRequest", "GeneratedAsset", "ProviderModelInfo"],
        "errors": ["BackendNotConfiguredError", "CapabilityNotSupportedError", "UnknownModelError"],
        "backends.base_backend": ["VisionBackend"],
        "backends.openai_compatible": ["OpenAICompatibleBackendConfig", "OpenAICompatibleVisionBackend"],
        "backends.huggingface_diffusers": ["HuggingFaceDiffusersBackendConfig", "HuggingFaceDiffusersVisionBackend"],
        "integrations.abstractcore": ["make_vision_tools"],
        "integrations.abstractcore_plugin": ["register"],
    }
    for module, names in homes.items():
        for name in names:
            assert hasattr(importlib.import_module(f"abstractvision_batch.{module}"), name), f"{module}.{name}"
    assert isinstance(abstractvision_batch.__version__, str)


def test_the_manager_takes_what_its_signature_documents() -> None:
    documented = ["backend", "store", "model_id", "registry"]
    assert [field.name for field in dataclasses.fields(VisionManager)][:4] == documented
    assert VisionManager() == VisionManager(backend=None, store=None, model_id=None, registry=None)


def test_the_diffusers_config_has_the_documented_fields_and_downloads_nothing_unasked() -> None:
    config = HuggingFaceDiffusersBackendConfig("a/model")

    documented = ["model_id", "device", "torch_dtype", "allow_download", "auto_retry_fp32"]
    documented += ["cache_dir", "revision", "variant", "use_safetensors", "low_cpu_mem_usage"]
    assert [field.name for field in dataclasses.fields(config)][: len(documented)] == documented
    assert config.allow_download is False
    assert config.use_safetensors is config.low_cpu_mem_usage is True


def test_the_shared_hooks_of_every_backend_exist() -> None:
    backend: VisionBackend = ProceduralVisionBackend()
    steps: list[int] = []

    capabilities = backend.get_capabilities()
    backend.preload()
    image = backend.generate_image_with_progress(
        ImageGenerationRequest("a fox", width=16, height=16, steps=2), lambda step, total: steps.append(step)
    )
    backend.edit_image_with_progress(ImageEditRequest("a fox", image.data, steps=2))
    backend.unload()

    assert capabilities is not None and capabilities.supported_tasks is not None
    assert "multi_view_image" in capabilities.supported_tasks
    assert steps == [1, 2]


def test_the_errors_to_handle_are_raised_where_the_documentation_says() -> None:
    backend = ProceduralVisionBackend()

    with pytest.raises(BackendNotConfiguredError):
        VisionManager().generate_image("a fox")
    with pytest.raises(CapabilityNotSupportedError):
        VisionManager(backend, model_id="Qwen/Qwen-Image-2512").generate_video("a fox")
    with pytest.raises(UnknownModelError):
        VisionManager(backend, model_id="nobody/knows").generate_image("a fox")
    assert issubclass(OptionalDependencyMissingError, Exception)


def test_a_registry_is_reused_when_it_is_given() -> None:
    registry = VisionModelCapabilitiesRegistry()

    assert (
        VisionManager(ProceduralVisionBackend(), model_id="avbatch/procedural", registry=registry).registry is registry
    )


def test_the_multiple_angles_card_of_the_older_seed_is_still_there() -> None:
    spec = VisionModelCapabilitiesRegistry().get("fal/Qwen-Image-Edit-2511-Multiple-Angles-LoRA")

    assert list(spec.tasks) == ["multi_view_image"]
    assert spec.tasks["multi_view_image"].requires == {"base_model_id": "Qwen/Qwen-Image-Edit-2511"}
