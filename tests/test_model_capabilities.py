from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from abstractvision_batch.errors import CapabilityNotSupportedError, SpecError, UnknownModelError
from abstractvision_batch.model_capabilities import VisionModelCapabilitiesRegistry, validate_capabilities_json
from abstractvision_batch.registry.constraints import check_param


@pytest.fixture(scope="module")
def registry() -> VisionModelCapabilitiesRegistry:
    return VisionModelCapabilitiesRegistry()


def registry_of(folder: Path, text: str) -> VisionModelCapabilitiesRegistry:
    (folder / "cards.yaml").write_text(text)
    return VisionModelCapabilitiesRegistry(asset_path=folder / "cards.yaml")


def test_models_and_tasks_are_listed_sorted(registry: VisionModelCapabilitiesRegistry) -> None:
    assert registry.list_models() == sorted(registry.list_models())
    assert registry.list_tasks() == [
        "image_to_image",
        "image_to_video",
        "multi_view_image",
        "text_to_image",
        "text_to_video",
    ]
    assert registry.get_task("text_to_image")["description"]
    assert registry.get_task("text_to_smell") == {}


@pytest.mark.parametrize(
    "model_id",
    [
        "Qwen/Qwen-Image-2512",
        "black-forest-labs/FLUX.2-klein-4B",
        "runwayml/stable-diffusion-v1-5",
        "zai-org/GLM-Image",
        "avbatch/shapes64",
    ],
)
def test_a_known_image_model_supports_text_to_image(registry: VisionModelCapabilitiesRegistry, model_id: str) -> None:
    assert registry.supports(model_id, "text_to_image")
    assert model_id in registry.models_for_task("text_to_image")
    registry.require_support(model_id, "text_to_image")


def test_a_model_spec_has_abstractvisions_fields(registry: VisionModelCapabilitiesRegistry) -> None:
    model = registry.get("black-forest-labs/FLUX.1-schnell")

    assert (model.model_id, model.provider, model.license) == (
        "black-forest-labs/FLUX.1-schnell",
        "huggingface",
        "apache-2.0",
    )
    task = model.tasks["text_to_image"]
    assert (task.task, task.inputs, task.outputs, task.requires) == ("text_to_image", ["text"], ["image"], None)
    assert task.params["prompt"]["required"] is True
    assert task.params["steps"] == {"required": False, "default": 4, "min": 1, "max": 4, "type": "int"}
    assert list(registry.iter_task_specs(model.model_id)) == [task]


def test_an_unknown_model_is_an_error_of_both_kinds_with_the_id_that_was_meant(
    registry: VisionModelCapabilitiesRegistry,
) -> None:
    with pytest.raises(UnknownModelError, match=r"did you mean avbatch/shapes64\?"):
        registry.get("avbatch/shape64")
    with pytest.raises(CapabilityNotSupportedError):
        registry.require_support("no/such", "text_to_image")
    with pytest.raises(UnknownModelError):
        registry.require_support("no/such", "text_to_image")
    assert not registry.supports("no/such", "text_to_image")


def test_a_task_that_the_model_does_not_have_is_refused_with_those_it_has(
    registry: VisionModelCapabilitiesRegistry,
) -> None:
    with pytest.raises(CapabilityNotSupportedError, match="it has: text_to_image, image_to_image"):
        registry.require_support("avbatch/shapes64", "text_to_video")


def test_a_model_that_nothing_can_run_is_listed_and_refused_with_the_reason(
    registry: VisionModelCapabilitiesRegistry,
) -> None:
    model_id = "tencent/HunyuanImage-3.0"

    assert "text_to_image" in registry.get(model_id).tasks
    assert not registry.supports(model_id, "text_to_image")
    assert model_id not in registry.models_for_task("text_to_image")
    with pytest.raises(CapabilityNotSupportedError, match="no backend can run text_to_image of this model"):
        registry.require_support(model_id, "text_to_image")


def test_a_lora_card_says_which_base_model_it_requires(registry: VisionModelCapabilitiesRegistry) -> None:
    (task,) = registry.iter_task_specs("fal/Qwen-Image-Edit-2511-Multiple-Angles-LoRA")

    assert task.requires == {"base_model_id": "Qwen/Qwen-Image-Edit-2511"}
    assert task.outputs == ["image[]"]


BASE = """\
cards:
  - {id: a/base, license: mit, tasks: {text_to_image: {}}}
  - id: a/lora
    license: mit
    requires: {base_model_id: a/base}
    tasks: {text_to_image: {}}
    backends: {diffusers: {}}
  - id: a/elsewhere
    license: mit
    tasks: {text_to_image: {requires: {backend: not_supported}}}
    backends: {diffusers: {}}
"""


def test_a_lora_whose_base_model_nothing_can_run_is_refused(tmp_path: Path) -> None:
    registry = registry_of(tmp_path, BASE)

    with pytest.raises(CapabilityNotSupportedError, match="requires a/base, which nothing can run"):
        registry.require_support("a/lora", "text_to_image")


def test_a_task_that_requires_a_backend_which_cannot_run_it_is_refused(tmp_path: Path) -> None:
    registry = registry_of(tmp_path, BASE)

    with pytest.raises(CapabilityNotSupportedError, match="requires backend not_supported, which cannot run it"):
        registry.require_support("a/elsewhere", "text_to_image")
    assert registry.models_for_task("text_to_image") == []


def test_an_asset_path_replaces_the_packaged_cards_and_paths_add_to_them(tmp_path: Path) -> None:
    assert registry_of(tmp_path, BASE).list_models() == ["a/base", "a/elsewhere", "a/lora"]

    both = VisionModelCapabilitiesRegistry(paths=[tmp_path])
    assert {"a/base", "avbatch/shapes64"} <= set(both.list_models())
    assert both.card("a/base").origin.endswith("cards.yaml")


def test_a_missing_asset_path_is_an_error_and_not_the_default(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no such file"):
        VisionModelCapabilitiesRegistry(asset_path=tmp_path / "absent.yaml")


def make_asset() -> dict[str, Any]:
    task = {"inputs": ["text"], "outputs": ["image"], "params": {"prompt": {"required": True}}}
    return {
        "schema_version": "1.0",
        "tasks": {"text_to_image": {"description": "d"}},
        "models": {"a/b": {"provider": "p", "license": "mit", "tasks": {"text_to_image": task}}},
    }


def test_a_sound_capability_asset_of_abstractvision_passes() -> None:
    validate_capabilities_json(make_asset())


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("schema_version",), None, "schema_version"),
        (("models", "a/b", "license"), "", r"\['models'\]\['a/b'\]\['license'\]: must be a non-empty string"),
        (("models", "a/b", "tasks", "text_to_smell"), {}, "unknown task 'text_to_smell'"),
        (("models", "a/b", "tasks", "text_to_image", "params", "prompt"), {}, "boolean 'required'"),
        (("models", "a/b", "tasks", "text_to_image", "inputs"), "text", "must be a list of strings"),
        (("models", "a/b", "tasks", "text_to_image", "requires"), {"base_model_id": "x"}, "unknown base_model_id 'x'"),
    ],
)
def test_a_malformed_capability_asset_is_named_by_its_place(path: tuple[str, ...], value: object, message: str) -> None:
    asset = make_asset()
    *above, last = path
    target = asset
    for key in above:
        target = target[key]
    target[last] = value

    with pytest.raises(ValueError, match=message):
        validate_capabilities_json(asset)


def _asset() -> dict[str, Any]:
    """A capability asset in the older library's form, with each of its spellings."""
    return {
        "schema_version": "1.0",
        "tasks": {"text_to_image": {"description": "…"}, "image_upscale": {}},
        "models": {
            "acme/painter": {
                "provider": "huggingface",
                "license": "apache-2.0",
                "notes": "a note",
                "downloads": [{"engine": "diffusers"}, {"engine": "stable-diffusion.cpp"}, {"engine": "mlx-gen"}],
                "tasks": {
                    "text_to_image": {
                        "inputs": ["text"],
                        "outputs": ["image"],
                        "params": {
                            "prompt": {"required": True},
                            "negative_prompt": {"required": False, "supported": False, "default": ""},
                            "steps": {"required": False, "minimum": 1, "maximum": 4},
                            "width": {"required": False, "multiple_of": 16},
                        },
                    },
                    "image_upscale": {"params": {"image": {"required": True}}},
                },
            },
            "acme/elsewhere": {
                "provider": "mlx-gen",
                "license": "mit",
                "tasks": {"text_to_image": {"params": {}, "requires": {"backend": "not_supported"}}},
            },
        },
    }


def test_a_capability_asset_of_abstractvision_is_read_as_cards(tmp_path: Path) -> None:
    path = tmp_path / "vision_model_capabilities.json"
    path.write_text(json.dumps(_asset()))

    registry = VisionModelCapabilitiesRegistry(asset_path=path)

    assert registry.list_models() == ["acme/elsewhere", "acme/painter"]
    assert registry.models_for_task("text_to_image") == ["acme/painter"]
    card = registry.card("acme/painter")
    assert sorted(card.backends) == ["diffusers", "openai", "sdcpp"]
    assert list(card.tasks) == ["text_to_image"]
    assert check_param(card, "text_to_image", "steps", 50) is not None
    assert check_param(card, "text_to_image", "negative_prompt", "blurry") is not None
    assert "acme/painter" in VisionModelCapabilitiesRegistry(paths=[path]).list_models()


def test_a_fault_of_a_capability_asset_is_named_with_its_file(tmp_path: Path) -> None:
    asset = _asset()
    del asset["models"]["acme/painter"]["license"]
    path = tmp_path / "old.json"
    path.write_text(json.dumps(asset))

    with pytest.raises(SpecError, match=r"old\.json: Invalid capability asset at \['models'\]\['acme/painter'\]"):
        VisionModelCapabilitiesRegistry(asset_path=path)
