"""VisionManager over the procedural backend: what is checked, what reaches the backend, what is stored."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from abstractvision_batch import LocalAssetStore, VisionManager, VisionModelCapabilitiesRegistry, is_artifact_ref
from abstractvision_batch.backends import ProceduralBackendConfig, ProceduralVisionBackend
from abstractvision_batch.errors import (
    AbstractVisionError,
    BackendNotConfiguredError,
    CapabilityNotSupportedError,
    GenerationError,
    InvalidOutputError,
    PartialBatchError,
    UnknownModelError,
)
from abstractvision_batch.media.images import decode_image, encode_image
from abstractvision_batch.media.probe import probe
from abstractvision_batch.registry.request_check import InvalidRequestError, UnknownParameterError
from abstractvision_batch.types import (
    GeneratedAsset,
    ImageEditRequest,
    ImageGenerationRequest,
    ImageToVideoRequest,
    MultiAngleRequest,
    ProviderModelInfo,
    VideoGenerationRequest,
    VisionBackendCapabilities,
    VisionRequest,
)

MODEL = "avbatch/procedural"
INPUT = encode_image(Image.new("RGB", (48, 32), "navy"), "png")
MASK = encode_image(Image.new("RGB", (48, 32), "white"), "png")


class RecordingBackend(ProceduralVisionBackend):
    """The procedural backend, which also remembers its requests and may have limits."""

    def __init__(self, capabilities: VisionBackendCapabilities | None = None) -> None:
        super().__init__()
        self.requests: list[VisionRequest] = []
        self.capabilities = capabilities

    def get_capabilities(self) -> VisionBackendCapabilities:
        return self.capabilities or super().get_capabilities()

    def generate_image(self, request: ImageGenerationRequest) -> GeneratedAsset:
        self.requests.append(request)
        return super().generate_image(request)

    def edit_image(self, request: ImageEditRequest) -> GeneratedAsset:
        self.requests.append(request)
        return super().edit_image(request)

    def generate_angles(self, request: MultiAngleRequest) -> list[GeneratedAsset]:
        self.requests.append(request)
        return super().generate_angles(request)

    def generate_video(self, request: VideoGenerationRequest) -> GeneratedAsset:
        self.requests.append(request)
        return super().generate_video(request)

    def image_to_video(self, request: ImageToVideoRequest) -> GeneratedAsset:
        self.requests.append(request)
        return super().image_to_video(request)

    def list_provider_models(self, *, task: str | None = None) -> Sequence[ProviderModelInfo]:
        return [ProviderModelInfo(id=f"model-for-{task}")]


class FixedBackend(ProceduralVisionBackend):
    """Answers every image request with one asset."""

    def __init__(self, asset: GeneratedAsset) -> None:
        super().__init__()
        self.asset = asset

    def generate_image(self, request: ImageGenerationRequest) -> GeneratedAsset:
        return self.asset


@pytest.fixture
def backend() -> RecordingBackend:
    return RecordingBackend()


@pytest.fixture
def manager(backend: RecordingBackend) -> VisionManager:
    return VisionManager(backend)


def asset_of(output: GeneratedAsset | dict[str, Any]) -> GeneratedAsset:
    assert isinstance(output, GeneratedAsset)
    return output


def ref_of(output: GeneratedAsset | dict[str, Any]) -> dict[str, Any]:
    assert isinstance(output, dict) and is_artifact_ref(output)
    return output


# the five tasks


def test_an_image_comes_as_an_asset_without_a_store(manager: VisionManager) -> None:
    asset = asset_of(manager.generate_image("a fox", width=64, height=40, seed=7))

    assert (asset.media_type, asset.mime_type) == ("image", "image/png")
    assert decode_image(asset.data).size == (64, 40)


def test_an_edit_takes_width_height_strength_and_mask(manager: VisionManager, backend: RecordingBackend) -> None:
    asset = asset_of(manager.edit_image("a fox", INPUT, mask=MASK, width=64, height=40, strength=0.3))

    assert decode_image(asset.data).size == (64, 40)
    assert backend.requests == [
        ImageEditRequest(prompt="a fox", image=INPUT, mask=MASK, width=64, height=40, strength=0.3)
    ]


def test_strength_in_extra_as_abstractvision_took_it_is_the_field(
    manager: VisionManager, backend: RecordingBackend
) -> None:
    manager.edit_image("a fox", image=INPUT, extra={"strength": 0.3, "scheduler": "euler"})

    (request,) = backend.requests
    assert isinstance(request, ImageEditRequest)
    assert (request.strength, request.extra) == (0.3, {"scheduler": "euler"})


def test_angles_come_in_their_order_as_a_list(tmp_path: Path, backend: RecordingBackend) -> None:
    store = LocalAssetStore(tmp_path)

    refs = VisionManager(backend, store).generate_angles("a cup", angles=["side", "front"], reference_image=INPUT)

    assert [ref_of(ref)["metadata"]["angle"] for ref in refs] == ["side", "front"]
    assert len({ref_of(ref)["$artifact"] for ref in refs}) == 2
    assert isinstance(backend.requests[0], MultiAngleRequest) and backend.requests[0].angles == ("side", "front")


def test_a_video_has_the_frames_asked_for(manager: VisionManager) -> None:
    asset = asset_of(manager.generate_video("waves", width=32, height=32, num_frames=4, fps=4))

    assert (asset.media_type, asset.mime_type) == ("video", "video/mp4")
    assert probe(asset.data, "video/mp4").frames == 4


def test_an_image_starts_a_video_without_a_prompt(manager: VisionManager, backend: RecordingBackend) -> None:
    asset = asset_of(manager.image_to_video(INPUT, num_frames=3, fps=3))

    assert probe(asset.data, "video/mp4").width == 48
    assert backend.requests == [ImageToVideoRequest(image=INPUT, num_frames=3, fps=3)]


def test_steps_are_reported_to_the_callback(manager: VisionManager) -> None:
    steps: list[tuple[int, int | None]] = []

    manager.generate_image(
        "a fox", width=16, height=16, steps=3, progress_callback=lambda *args: steps.append((args[0], args[1]))
    )

    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_the_catalog_is_the_backends(manager: VisionManager) -> None:
    assert [model.id for model in manager.list_provider_models(task="text_to_image")] == ["model-for-text_to_image"]
    assert VisionManager(ProceduralVisionBackend()).list_provider_models() == []


# what is stored


def test_a_stored_image_has_abstractvisions_tags_and_says_what_made_it(tmp_path: Path) -> None:
    store = LocalAssetStore(tmp_path)
    manager = VisionManager(ProceduralVisionBackend(), store, MODEL)

    ref = ref_of(manager.edit_image("a fox", INPUT, negative_prompt="blur", steps=2, seed=7, extra={"api_key": "sk-1"}))

    record = store.get_metadata(ref["$artifact"])
    assert record is not None
    assert record["tags"] == {"kind": "generated_media", "modality": "image", "task": "image_to_image"}
    assert record["metadata"] == ref["metadata"]
    assert ref["metadata"]["source"] == "procedural"
    generation = ref["metadata"]["generation"]
    assert generation["task"] == "image_to_image"
    assert generation["model"] == MODEL
    assert generation["backend"] == "ProceduralVisionBackend"
    assert generation["seed"] == 7
    assert generation["parameters"] == {
        "prompt": "a fox",
        "negative_prompt": "blur",
        "steps": 2,
        "seed": 7,
        "extra": {"api_key": "<secret>"},
    }
    assert generation["inputs"]["image"]["size_bytes"] == len(INPUT)
    assert generation["environment"]["device"] == "cpu"
    assert generation["latency_s"] > 0
    assert generation["started_at"].endswith("+00:00")
    assert b"sk-1" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_fault_the_seed_of_an_unseeded_request_is_reported(manager: VisionManager) -> None:
    backend = FixedBackend(GeneratedAsset("image", INPUT, "image/png", {"seed": 12345}))

    asset = asset_of(VisionManager(backend).generate_image("a fox"))

    assert asset.metadata["generation"]["seed"] == 12345


def test_fault_5_webp_that_a_backend_calls_png_is_stored_as_webp(tmp_path: Path) -> None:
    webp = encode_image(Image.new("RGB", (8, 8), "red"), "webp")
    store = LocalAssetStore(tmp_path)

    ref = ref_of(VisionManager(FixedBackend(GeneratedAsset("image", webp, "image/png")), store).generate_image("a fox"))

    assert ref["content_type"] == "image/webp"
    path = store.get_content_path(ref["$artifact"])
    assert path is not None and path.suffix == ".webp"


def test_fault_7_an_empty_asset_is_an_error_and_never_stored(tmp_path: Path) -> None:
    manager = VisionManager(FixedBackend(GeneratedAsset("image", b"", "image/png")), LocalAssetStore(tmp_path))

    with pytest.raises(InvalidOutputError, match="no bytes"):
        manager.generate_image("a fox")

    assert list(tmp_path.iterdir()) == []


def test_fault_10_two_prompts_with_the_same_pixels_keep_their_own_parameters(tmp_path: Path) -> None:
    store = LocalAssetStore(tmp_path)
    manager = VisionManager(FixedBackend(GeneratedAsset("image", INPUT, "image/png")), store)

    for prompt in ("a fox", "a red fox"):
        ref = ref_of(manager.generate_image(prompt))

    prompts = [
        record["metadata"]["generation"]["parameters"]["prompt"] for record in store.list_metadata(ref["$artifact"])
    ]
    assert prompts == ["a fox", "a red fox"]


def test_fault_11_a_backends_metadata_that_is_not_json_costs_no_image(tmp_path: Path) -> None:
    metadata = {"loss": np.float32(0.5), "shape": (3, 4), "nan": float("nan"), "model": object}
    manager = VisionManager(
        FixedBackend(GeneratedAsset("image", INPUT, "image/png", metadata)), LocalAssetStore(tmp_path)
    )

    stored = ref_of(manager.generate_image("a fox"))["metadata"]

    assert (stored["loss"], stored["shape"], stored["nan"]) == (0.5, [3, 4], "nan")
    json.dumps(stored, allow_nan=False)


# what is refused, before the backend sees it


def test_without_a_backend_every_method_says_so() -> None:
    manager = VisionManager()

    for call in (
        lambda: manager.generate_image("a"),
        lambda: manager.edit_image("a", INPUT),
        lambda: manager.generate_angles("a"),
        lambda: manager.generate_video("a"),
        lambda: manager.image_to_video(INPUT),
        manager.list_provider_models,
    ):
        with pytest.raises(BackendNotConfiguredError, match="pass backend="):
            call()


def test_fault_an_unknown_keyword_is_our_error_with_a_suggestion_and_still_a_type_error(
    manager: VisionManager, backend: RecordingBackend
) -> None:
    with pytest.raises(UnknownParameterError, match=r"stpes: unknown parameter \(did you mean steps\?") as caught:
        manager.generate_image("a fox", stpes=3)

    assert isinstance(caught.value, AbstractVisionError)
    assert isinstance(caught.value, TypeError)
    assert backend.requests == []


@pytest.mark.parametrize("cls", [InvalidRequestError, UnknownParameterError])
def test_a_refusal_survives_pickling(cls: type[InvalidRequestError]) -> None:
    copy = pickle.loads(pickle.dumps(cls("a\nb", problems=("a", "b"))))

    assert (type(copy), str(copy), copy.problems) == (cls, "a\nb", ("a", "b"))


def test_everything_wrong_with_a_call_is_said_at_once(manager: VisionManager, backend: RecordingBackend) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        manager.generate_image("a fox", heigth=64, width=-5, steps="3", seed=-1, extra=["a"])

    names = [line.split(": ")[1] for line in caught.value.problems]
    assert names == ["heigth", "extra", "width", "seed", "steps"]
    assert str(caught.value) == "\n".join(caught.value.problems)
    assert backend.requests == []


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"width": 0}, "width: 0 is below the minimum 1"),
        ({"width": 64.0}, "64.0 is not a whole number"),
        ({"steps": True}, "is not a whole number"),
        ({"guidance_scale": float("nan")}, "is not a number"),
        ({"guidance_scale": "7"}, "is not a number"),
        ({"negative_prompt": 3}, "is not a text"),
        ({"seed": 2**64}, "above the maximum"),
        ({"extra": "steps=3"}, "str is not a mapping"),
        ({"steps": 3, "extra": {"steps": 4}}, "given as 3 and in extra as 4"),
        ({"extra": {"steps": -4}}, "steps: -4 is below the minimum 1"),
    ],
)
def test_fault_nonsense_values_do_not_pass_even_without_a_card(
    manager: VisionManager, backend: RecordingBackend, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        manager.generate_image("a fox", **params)

    assert message in str(caught.value)
    assert backend.requests == []


@pytest.mark.parametrize("image", ["photo.png", None, b"", 7])
def test_an_image_that_is_no_bytes_is_named(manager: VisionManager, image: Any) -> None:
    with pytest.raises(InvalidRequestError, match="image_to_image: image: "):
        manager.edit_image("a fox", image)
    with pytest.raises(InvalidRequestError, match="image_to_video: image: "):
        manager.image_to_video(image)


def test_a_prompt_that_is_none_is_missing(manager: VisionManager) -> None:
    with pytest.raises(InvalidRequestError, match="prompt: missing"):
        manager.generate_image(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("angles", ["front", [], ["front", ""], [1]])
def test_angles_are_a_list_of_names(manager: VisionManager, angles: Any) -> None:
    with pytest.raises(CapabilityNotSupportedError, match="angles: not a list of views"):
        manager.generate_angles("a cup", angles=angles)


def test_numbers_of_numpy_are_numbers(manager: VisionManager, backend: RecordingBackend) -> None:
    manager.generate_image("a fox", width=np.int64(16), height=np.int32(16), guidance_scale=np.float32(2.5))

    assert backend.requests == [ImageGenerationRequest("a fox", width=16, height=16, guidance_scale=2.5)]
    assert type(backend.requests[0].guidance_scale) is float


def test_a_task_that_the_backend_cannot_do_is_refused_by_name() -> None:
    backend = RecordingBackend(VisionBackendCapabilities(supported_tasks=["text_to_image"]))

    with pytest.raises(CapabilityNotSupportedError, match="cannot do text_to_video"):
        VisionManager(backend).generate_video("waves")

    assert backend.requests == []


def test_the_backends_limits_are_checked() -> None:
    limits = VisionBackendCapabilities(supports_mask=False, max_width=64, max_height=32, max_fps=8, max_frames=4)
    manager = VisionManager(RecordingBackend(limits))

    with pytest.raises(InvalidRequestError) as edit:
        manager.edit_image("a", INPUT, mask=MASK, width=65, height=33)
    with pytest.raises(InvalidRequestError) as video:
        manager.generate_video("a", width=64, height=32, fps=9, num_frames=5)

    assert [line.split(": ")[1] for line in edit.value.problems] == ["width", "height", "mask"]
    assert [line.split(": ")[1] for line in video.value.problems] == ["fps", "num_frames"]


def test_further_pictures_reach_a_backend_that_takes_them_and_no_other() -> None:
    taking = RecordingBackend(VisionBackendCapabilities(pictures=("images", "last_image", "control")))
    manager = VisionManager(taking)

    manager.edit_image("a", INPUT, images=[bytearray(MASK), INPUT], control=[MASK])
    video = manager.image_to_video(INPUT, last_image=MASK)
    with pytest.raises(InvalidRequestError) as wrong:
        manager.edit_image("a", INPUT, images=INPUT, control=[b"", "x"])

    assert taking.requests == [
        ImageEditRequest("a", INPUT, images=(MASK, INPUT), control=(MASK,)),
        ImageToVideoRequest(INPUT, last_image=MASK),
    ]
    assert isinstance(video, GeneratedAsset)
    assert set(video.metadata["generation"]["inputs"]) == {"image", "last_image"}
    assert wrong.value.problems == (
        "image_to_image: images: bytes is not a list of encoded images (pass a list of the files' bytes)",
        "image_to_image: control: no bytes (pass an encoded image)",
    )
    other = RecordingBackend(VisionBackendCapabilities())
    with pytest.raises(InvalidRequestError, match="images: the backend takes no images"):
        VisionManager(other).edit_image("a", INPUT, images=[INPUT])
    assert other.requests == []


def test_a_backend_that_cannot_say_what_it_can_do_is_heard() -> None:
    class Confused(ProceduralVisionBackend):
        def get_capabilities(self) -> VisionBackendCapabilities:
            raise GenerationError("the server does not answer")

    with pytest.raises(GenerationError, match="does not answer"):
        VisionManager(Confused()).generate_image("a fox")


# the model's card


def test_an_unknown_model_is_both_errors(backend: RecordingBackend) -> None:
    manager = VisionManager(backend, model_id="avbatch/procedual")

    with pytest.raises(UnknownModelError, match="did you mean avbatch/procedural") as caught:
        manager.generate_image("a fox")

    assert isinstance(caught.value, CapabilityNotSupportedError)
    assert backend.requests == []


def test_a_task_that_the_model_lacks_is_refused_before_the_backend(backend: RecordingBackend) -> None:
    with pytest.raises(CapabilityNotSupportedError, match="text_to_video"):
        VisionManager(backend, model_id="avbatch/shapes64").generate_video("waves")

    assert backend.requests == []


def test_fault_13_a_model_that_nothing_can_run_is_refused_before_the_backend(
    backend: RecordingBackend, tmp_path: Path
) -> None:
    path = tmp_path / "cards.yaml"
    path.write_text(
        "id: test/unrunnable\nprovider: test\nlicense: mit\nbackends: {diffusers: {}}\n"
        "tasks: {text_to_image: {requires: {backend: not_supported}}}\n"
    )
    manager = VisionManager(backend, model_id="test/unrunnable", registry=VisionModelCapabilitiesRegistry(paths=[path]))

    with pytest.raises(CapabilityNotSupportedError, match="not_supported"):
        manager.generate_image("a fox")

    assert backend.requests == []


def test_fault_parameters_beyond_the_card_are_refused_all_at_once(backend: RecordingBackend) -> None:
    manager = VisionManager(backend, model_id="avbatch/shapes64")

    with pytest.raises(InvalidRequestError) as caught:
        manager.generate_image("a fox", width=128, steps=9999, guidance_scale=75)

    assert [line.split(": ")[1] for line in caught.value.problems] == ["width", "steps", "guidance_scale"]
    assert "registry/" in str(caught.value)
    assert backend.requests == []


def test_of_the_cards_values_only_a_const_is_filled_in(backend: RecordingBackend) -> None:
    VisionManager(backend, model_id="avbatch/shapes64").generate_image("a fox")

    assert backend.requests == [ImageGenerationRequest("a fox", width=64, height=64)]


CARD = """
id: test/strict
provider: test
license: mit
tasks:
  text_to_image:
    params:
      negative_prompt: {supported: false}
      width: {multiple_of: 16}
      steps: {required: true, default: 4}
      shift: {type: number, const: 3}
      sampler: {type: string, enum: [euler, ddim]}
  multi_view_image:
    params:
      reference_image: {required: true}
backends:
  procedural: {}
"""


@pytest.fixture
def strict(backend: RecordingBackend, tmp_path: Path) -> VisionManager:
    path = tmp_path / "strict.yaml"
    path.write_text(CARD)
    return VisionManager(backend, model_id="test/strict", registry=VisionModelCapabilitiesRegistry(paths=[path]))


def test_a_required_parameter_takes_its_default_and_a_const_beyond_the_request_goes_to_extra(
    strict: VisionManager, backend: RecordingBackend
) -> None:
    strict.generate_image("a fox", extra={"sampler": "ddim", "unheard_of": 1})

    assert backend.requests == [
        ImageGenerationRequest("a fox", steps=4, extra={"sampler": "ddim", "unheard_of": 1, "shift": 3})
    ]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"width": 1000}, "1000 is not a multiple of 16"),
        ({"negative_prompt": "blur"}, "ignores negative_prompt"),
        ({"guidance_scale": 2.0}, "no parameter guidance_scale"),
        ({"extra": {"sampler": "eulr"}}, "did you mean euler?"),
        ({"extra": {"shift": 5}}, "only 3"),
    ],
)
def test_the_cards_rules_hold_for_arguments_and_extra(
    strict: VisionManager, backend: RecordingBackend, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        strict.generate_image("a fox", **params)

    assert message in str(caught.value)
    assert backend.requests == []


def test_an_input_that_the_card_requires_is_missed(strict: VisionManager) -> None:
    with pytest.raises(CapabilityNotSupportedError, match="needs reference_image"):
        strict.generate_angles("a cup")

    strict.generate_angles("a cup", reference_image=INPUT)


def test_a_model_set_after_construction_is_gated_too(backend: RecordingBackend) -> None:
    manager = VisionManager(backend)
    manager.model_id = "avbatch/shapes64"

    with pytest.raises(CapabilityNotSupportedError):
        manager.generate_video("waves")


def test_managers_share_a_registry_and_copy(backend: RecordingBackend) -> None:
    manager = VisionManager(backend, model_id=MODEL)

    assert isinstance(manager.registry, VisionModelCapabilitiesRegistry)
    assert replace(manager, store=None).registry is manager.registry
    assert VisionManager(backend).registry is None


def test_a_backends_own_failure_comes_through_as_it_is() -> None:
    manager = VisionManager(ProceduralVisionBackend(ProceduralBackendConfig(fail_when="cursed")))

    with pytest.raises(GenerationError, match="fail_when"):
        manager.generate_image("a cursed fox", width=16, height=16)


def test_importing_the_manager_loads_neither_torch_nor_pillow() -> None:
    script = (
        "import sys; from abstractvision_batch import VisionManager, LocalAssetStore, is_artifact_ref; "
        "LocalAssetStore(sys.argv[1]); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, "."], capture_output=True, text=True, check=True)

    assert set(done.stdout.split()).isdisjoint({"torch", "diffusers", "transformers", "PIL", "numpy", "httpx", "ray"})


# backends of other classes, and several outputs of one prompt


class OldAsset:
    """The older library's record of an asset: our field names, another class."""

    def __init__(self, data: bytes) -> None:
        self.media_type, self.data, self.mime_type, self.metadata = "image", data, "image/png", {"source": "old"}


class OldBackend:
    """A class that knows nothing of this package and has one method of the interface."""

    def __init__(self) -> None:
        self.seeds: list[int | None] = []

    def generate_image(self, request: Any) -> OldAsset:
        self.seeds.append(request.seed)
        if request.seed == 5:
            raise KeyError("five")
        return OldAsset(encode_image(Image.new("RGB", (8, 8), "teal"), "png"))


def test_an_object_with_the_methods_of_a_backend_is_one() -> None:
    manager = VisionManager(backend=OldBackend())  # type: ignore[arg-type]

    asset = manager.generate_image("a fox", seed=3)

    assert isinstance(asset, GeneratedAsset)
    assert asset.metadata["source"] == "old"
    with pytest.raises(CapabilityNotSupportedError, match="cannot do text_to_video"):
        manager.generate_video("a fox")


def test_an_object_without_any_of_the_methods_is_refused_by_name() -> None:
    with pytest.raises(BackendNotConfiguredError, match="dict: not a VisionBackend: it has none of generate_image"):
        VisionManager(backend={}).generate_image("a fox")  # type: ignore[arg-type]


def test_a_batch_has_consecutive_seeds_and_each_output_is_as_if_it_were_asked_for_alone() -> None:
    manager = VisionManager(backend=ProceduralVisionBackend())

    batch = manager.generate_image_batch("a fox", count=3, seed=7, width=16, height=16)

    alone = [manager.generate_image("a fox", seed=seed, width=16, height=16) for seed in (7, 8, 9)]
    assert [one.data for one in batch] == [one.data for one in alone]  # type: ignore[union-attr]
    assert [one.metadata["generation"]["seed"] for one in batch] == [7, 8, 9]  # type: ignore[union-attr]


def test_what_a_batch_made_is_kept_when_one_of_it_fails(tmp_path: Path) -> None:
    store = LocalAssetStore(tmp_path)
    manager = VisionManager(backend=OldBackend(), store=store)  # type: ignore[arg-type]

    with pytest.raises(PartialBatchError, match="1 of 3 failed: OldBackend: KeyError: 'five'") as caught:
        manager.generate_image_batch("a fox", seeds=[4, 5, 6])

    first, failed, last = caught.value.outputs
    assert isinstance(first, dict)
    assert isinstance(last, dict)
    assert failed is None
    assert store.load_bytes(first["$artifact"]) and store.load_bytes(last["$artifact"])


@pytest.mark.parametrize("given", [{"count": 2, "seeds": [1, 2, 3]}, {"count": 0}, {"seeds": []}])
def test_a_count_that_the_seeds_do_not_fit_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(CapabilityNotSupportedError, match=r"text_to_image: (seeds|count)"):
        VisionManager(backend=ProceduralVisionBackend()).generate_image_batch("a fox", **given)


def test_a_failed_generation_is_the_runtime_error_that_older_code_catches() -> None:
    class Failing(OldBackend):
        def generate_image(self, request: Any) -> OldAsset:
            raise GenerationError("out of paint")

    with pytest.raises(RuntimeError, match="out of paint"):
        VisionManager(backend=Failing()).generate_image("a fox")  # type: ignore[arg-type]
