"""AbstractCore's plugin and tools over the procedural backend; AbstractCore itself where it is installed."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from abstractvision_batch import LocalAssetStore, VisionManager, VisionModelCapabilitiesRegistry, is_artifact_ref
from abstractvision_batch.backends import ProceduralVisionBackend, StableDiffusionCppVisionBackend
from abstractvision_batch.backends.from_environment import VARIABLES
from abstractvision_batch.errors import (
    BackendNotConfiguredError,
    CapabilityNotSupportedError,
    GenerationError,
    OptionalDependencyMissingError,
    UnknownModelError,
)
from abstractvision_batch.integrations.abstractcore import make_vision_tools
from abstractvision_batch.integrations.abstractcore_plugin import VisionCapability, register
from abstractvision_batch.integrations.configured_backend import backend_fields, make_backend, model_of, read_settings
from abstractvision_batch.media.images import decode_image, encode_image
from abstractvision_batch.media.probe import probe
from abstractvision_batch.registry.constraints import default_params
from abstractvision_batch.types import GeneratedAsset, ImageGenerationRequest, ProviderModelInfo
from tests.support.openai_server import running_server

INPUT = encode_image(Image.new("RGB", (48, 32), "navy"), "png")
SIZE: dict[str, Any] = {"width": 32, "height": 32, "steps": 1}


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable.name, raising=False)


class Owner:
    """A host, as AbstractCore's providers are: it has a `config`."""

    def __init__(self, **config: Any) -> None:
        self.config = {f"vision_{name}": value for name, value in config.items()}


class Registry:
    """The part of AbstractCore's capability registry that a plugin sees."""

    def __init__(self) -> None:
        self.backends: dict[str, dict[str, Any]] = {}

    def register_vision_backend(
        self,
        *,
        backend_id: str,
        factory: Callable[[Any], Any],
        priority: int = 0,
        description: str | None = None,
        install_hint: str | None = None,
        config_hint: str | None = None,
    ) -> None:
        self.backends[backend_id] = {"factory": factory, "priority": priority, "hint": config_hint}


class RuntimeStore:
    """An artifact store of another system."""

    def __init__(self) -> None:
        self.held: dict[str, tuple[bytes, dict[str, Any]]] = {}

    def store(self, content: bytes, **about: Any) -> dict[str, str]:
        artifact_id = f"artifact-{len(self.held)}"
        self.held[artifact_id] = (content, about)
        return {"artifact_id": artifact_id}

    def load(self, artifact_id: str) -> bytes | None:
        return self.held[artifact_id][0] if artifact_id in self.held else None


class CatalogBackend(ProceduralVisionBackend):
    """Remembers its requests and has a catalog with an entry that no JSON could hold."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[ImageGenerationRequest] = []

    def generate_image(self, request: ImageGenerationRequest) -> GeneratedAsset:
        self.requests.append(request)
        return super().generate_image(request)

    def list_provider_models(self, *, task: str | None = None) -> Sequence[ProviderModelInfo]:
        raw = {"deep": [[[[[1]]]]], "many": list(range(99)), "long": "x" * 9999, "odd": {1, 2}, "bytes": b"abc"}
        return [ProviderModelInfo(id="m", owned_by="me", capabilities=(task or "",), raw=raw)]


@pytest.fixture
def vision() -> VisionCapability:
    return VisionCapability(Owner(backend="procedural"), "abstractvision:openai")


def bytes_of(result: bytes | dict[str, Any]) -> bytes:
    assert isinstance(result, bytes)
    return result


# registering


def test_both_backends_are_registered_and_openai_comes_first() -> None:
    registry = Registry()

    register(registry)

    assert {key: value["priority"] for key, value in registry.backends.items()} == {
        "abstractvision:openai": 0,
        "abstractvision:openai-compatible": -1,
        "abstractvision_batch:openai": -2,
        "abstractvision_batch:openai-compatible": -3,
    }
    for backend_id, entry in registry.backends.items():
        assert entry["factory"](Owner()).backend_id == backend_id, "making a capability needs no configuration"
        assert "vision_backend" in entry["hint"]


def test_the_entry_point_leads_to_register() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]

    group = project["entry-points"]["abstractcore.capabilities_plugins"]

    assert group == {"abstractvision_batch": "abstractvision_batch.integrations.abstractcore_plugin:register"}


def test_importing_and_registering_load_nothing_heavy() -> None:
    script = (
        "import sys; from abstractvision_batch.integrations.abstractcore_plugin import register\n"
        "class Registry:\n"
        "    def register_vision_backend(self, *, factory, **about): factory(None)\n"
        "register(Registry()); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert set(done.stdout.split()).isdisjoint({"torch", "diffusers", "transformers", "PIL", "numpy", "httpx"})


# generating


def test_every_task_answers_with_bytes_where_there_is_no_store(vision: VisionCapability) -> None:
    video: dict[str, Any] = {**SIZE, "num_frames": 2, "fps": 2}

    assert decode_image(bytes_of(vision.t2i("a fox", **SIZE))).size == (32, 32)
    assert decode_image(bytes_of(vision.i2i("a fox", INPUT, strength=0.5, **SIZE))).size == (32, 32)
    assert len(vision.multi_view_image("a cup", angles=["front", "side"], **SIZE)) == 2
    assert len(vision.generate_angles("a cup", **SIZE)) == 4
    assert probe(bytes_of(vision.t2v("waves", **video)), "video/mp4").frames == 2
    assert probe(bytes_of(vision.i2v(INPUT, **video)), "video/mp4").frames == 2


def test_a_store_gets_run_tags_and_metadata_and_the_result_is_a_reference(vision: VisionCapability) -> None:
    store = RuntimeStore()

    ref = vision.t2i("a fox", artifact_store=store, run_id="r1", tags={"who": "me"}, metadata={"why": "test"}, **SIZE)

    assert is_artifact_ref(ref)
    content, about = store.held["artifact-0"]
    assert decode_image(content).size == (32, 32)
    assert about["run_id"] == "r1"
    assert {"who": "me", "task": "text_to_image", "modality": "image"}.items() <= about["tags"].items()
    assert about["metadata"]["why"] == "test"
    assert about["metadata"]["generation"]["parameters"]["prompt"] == "a fox"


def test_an_image_may_be_bytes_a_reference_or_a_path(vision: VisionCapability, tmp_path: Path) -> None:
    path, store = tmp_path / "in.png", RuntimeStore()
    path.write_bytes(INPUT)
    store.held["mine"] = (INPUT, {})

    inputs: list[Any] = [INPUT, bytearray(INPUT), str(path), path]
    results = [vision.i2i("a fox", image, mask=image, seed=1, steps=1) for image in inputs]
    ref = {"$artifact": "mine"}
    vision.i2i("a fox", ref, mask=ref, seed=1, steps=1, artifact_store=store)

    assert len({bytes_of(result) for result in results}) == 1
    assert store.held["artifact-1"][0] == results[0]


@pytest.mark.parametrize(
    ("image", "message"),
    [("nowhere.png", "cannot be read"), ({"$artifact": "x"}, "needs artifact_store"), (7, "int is neither")],
)
def test_an_image_that_cannot_be_had_is_named(vision: VisionCapability, image: Any, message: str) -> None:
    with pytest.raises(GenerationError, match=message):
        vision.i2i("a fox", image)


def test_provider_is_dropped_and_unknown_keywords_go_into_extra() -> None:
    backend = CatalogBackend()
    vision = VisionCapability(Owner(backend_instance=backend), "abstractvision:openai")

    vision.t2i("a fox", provider="openai", quality="high", style=None, extra={"n": 1}, **SIZE)

    (request,) = backend.requests
    assert request.extra == {"n": 1, "quality": "high"}


def test_a_local_backend_does_not_pretend_to_run_another_model() -> None:
    vision = VisionCapability(Owner(backend="procedural", model_id="avbatch/procedural"), "abstractvision:openai")

    vision.t2i("a fox", model="avbatch/procedural", **SIZE)
    with pytest.raises(CapabilityNotSupportedError, match="set vision_model_id"):
        vision.t2i("a fox", model="another", **SIZE)


def test_a_local_models_card_is_checked() -> None:
    vision = VisionCapability(Owner(backend="procedural", model_id="avbatch/procedural"), "abstractvision:openai")

    with pytest.raises(CapabilityNotSupportedError, match=r"registry/avbatch\.yaml"):
        vision.t2i("a fox", width=100_000)


def test_a_servers_model_is_checked_against_the_card_that_the_owner_names() -> None:
    owner = Owner(backend_instance=ProceduralVisionBackend(), capabilities_model_id="avbatch/shapes64")
    vision = VisionCapability(owner, "abstractvision:openai-compatible")

    with pytest.raises(CapabilityNotSupportedError, match="only 64"):
        vision.t2i("a fox", width=512)


def test_the_backend_is_made_once() -> None:
    made: list[object] = []

    def factory(owner: object) -> ProceduralVisionBackend:
        made.append(owner)
        return ProceduralVisionBackend()

    owner = Owner(backend_factory=factory)
    vision = VisionCapability(owner, "abstractvision:openai")
    vision.t2i("a", **SIZE)
    vision.t2i("b", **SIZE)

    assert made == [owner]


def test_what_is_no_backend_is_refused() -> None:
    with pytest.raises(BackendNotConfiguredError, match="vision_backend_instance: object: not a VisionBackend"):
        VisionCapability(Owner(backend_instance=object()), "abstractvision:openai").t2i("a fox")


def test_the_catalog_is_plain_and_bounded_json() -> None:
    vision = VisionCapability(Owner(backend_instance=CatalogBackend()), "abstractvision:openai")

    (model,) = vision.list_provider_models(task="text_to_image")

    json.dumps(model, allow_nan=False)
    assert (model["id"], model["owned_by"], model["capabilities"]) == ("m", "me", ["text_to_image"])
    assert len(model["raw"]["many"]) == 50
    assert len(model["raw"]["long"]) == 4096
    assert model["raw"]["deep"] == [[["<too deep>"]]]
    assert model["raw"]["bytes"] == "<3 bytes>"


def test_a_server_is_called_with_the_configured_model_or_the_calls_own() -> None:
    with running_server(models=["a-model", {"id": "b-model", "owned_by": "us"}]) as server:
        owner = Owner(base_url=f"{server.url}/v1", model_id="a-model")
        vision = VisionCapability(owner, "abstractvision:openai-compatible")

        for model in (None, "a-model", "b-model"):
            vision.t2i("a fox", model=model, provider="openai-compatible", **SIZE)
        listed = vision.list_provider_models()

    assert [received.fields["model"] for received in server.posts[:3]] == ["a-model", "a-model", "b-model"]
    assert [model["id"] for model in listed] == ["a-model", "b-model"]


@pytest.mark.model
def test_the_embedded_model_runs_behind_the_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("diffusers")
    monkeypatch.setenv("ABSTRACTVISION_BACKEND", "diffusers")
    monkeypatch.setenv("ABSTRACTVISION_DIFFUSERS_MODEL_ID", "avbatch/shapes64")
    monkeypatch.setenv("ABSTRACTVISION_DIFFUSERS_DEVICE", "cpu")

    image = VisionCapability(Owner(), "abstractvision:openai").t2i("a red circle", steps=2, seed=1)

    assert decode_image(bytes_of(image)).size == (64, 64)


def test_abstractvisions_plugin_keeps_its_ids_whichever_of_the_two_registers_first() -> None:
    class Shared(Registry):
        def _is_backend_registered(self, capability: str, backend_id: str) -> bool:
            return backend_id in self.backends

    theirs: dict[str, Any] = {"backend_id": "abstractvision:openai", "factory": lambda owner: "theirs", "priority": 0}
    first, second = Shared(), Shared()
    first.register_vision_backend(**theirs)
    register(first)
    register(second)
    second.register_vision_backend(**theirs)

    for registry in (first, second):
        assert registry.backends["abstractvision:openai"]["factory"](None) == "theirs"
        own = registry.backends["abstractvision_batch:openai"]["factory"](Owner(backend="procedural"))
        assert decode_image(own.t2i("a fox", **SIZE)).size == (32, 32)


def test_a_batch_generates_one_output_per_seed(vision: VisionCapability) -> None:
    video: dict[str, Any] = {**SIZE, "num_frames": 2, "fps": 2}

    images = vision.t2i_batch("a fox", count=2, seeds=[3, 4], **SIZE)

    assert images == [vision.t2i("a fox", seed=seed, **SIZE) for seed in (3, 4)]
    assert len(vision.i2i_batch("a fox", INPUT, count=2, **SIZE)) == 2
    assert len(vision.t2v_batch("waves", count=2, **video)) == 2
    assert len(vision.i2v_batch(INPUT, seeds=[1, 2, 3], **video)) == 3


def test_the_local_model_is_loaded_listed_and_unloaded_on_request() -> None:
    vision = VisionCapability(Owner(backend="procedural", model_id="avbatch/procedural"), "abstractvision:openai")

    loaded = vision.load_resident_model({"task": "t2i", "model": "avbatch/procedural"})
    again = vision.load_resident_model({"task": "text_to_image"})
    listed = vision.list_resident_models({"task": "text-to-image"})
    unloaded = vision.unload_resident_model({"load_id": loaded["load_id"]})

    assert (loaded["loaded_new"], again["loaded_new"]) == (True, False)
    assert (loaded["state"], loaded["resident"], loaded["task"]) == ("loaded", True, "text_to_image")
    assert [record["model"] for record in listed] == ["avbatch/procedural"]
    assert (unloaded["state"], unloaded["unloaded"]) == ("unloaded", True)
    assert vision.list_loaded_models() == []
    json.dumps([loaded, listed, unloaded])


def test_a_model_that_a_request_used_is_loaded_but_not_resident(vision: VisionCapability) -> None:
    vision.t2i("a fox", **SIZE)

    (loaded,) = vision.list_loaded_models({"provider": "procedural"})
    assert (loaded["source"], loaded["resident"]) == ("request", False)
    assert vision.list_resident_models() == []


def test_a_servers_model_is_not_loaded_here() -> None:
    vision = VisionCapability(Owner(base_url="http://127.0.0.1:9/v1"), "abstractvision:openai-compatible")

    with pytest.raises(CapabilityNotSupportedError, match="loaded by its server"):
        vision.load_resident_model({"model": "m"})


def test_providers_and_adapters_are_listed_without_asking_a_server(vision: VisionCapability) -> None:
    said = vision.available_providers(task="text_to_image")
    (adapter,) = vision.list_provider_adapters(model="Qwen/Qwen-Image-Edit-2511")

    assert "procedural" in said["available_providers"]
    assert "openai" not in said["available_providers"]  # no key
    assert said["details"]["procedural"]["selected"] is True
    assert adapter["base_models"] == ["Qwen/Qwen-Image-Edit-2511"]
    json.dumps([said, adapter])


def test_upscaling_is_refused_with_what_to_use_instead(vision: VisionCapability) -> None:
    with pytest.raises(CapabilityNotSupportedError, match="use i2i with an upscaler"):
        vision.upscale_image(INPUT)


# configuration


def test_the_owner_wins_over_the_environment_and_its_attributes_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABSTRACTVISION_MODEL_ID", "from-env")
    owner = Owner(model_id="from-config")
    attribute = type("Host", (), {"vision_model_id": "from-attribute"})()

    found = [model_of(read_settings(host), "sdcpp") for host in (owner, attribute, Owner(), Owner(model_id=" "))]

    assert found == ["from-config", "from-attribute", "from-env", None]


def test_openais_server_needs_a_key_and_has_a_default_model(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendNotConfiguredError, match="OPENAI_API_KEY"):
        backend_fields(read_settings(Owner()), "openai")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")

    settings = read_settings(Owner())
    assert backend_fields(settings, "openai") == {"base_url": "https://api.openai.com/v1", "api_key": "sk-1"}
    assert model_of(settings, "openai") == "gpt-image-2"


def test_a_compatible_server_needs_a_url_and_neither_key_nor_model() -> None:
    with pytest.raises(BackendNotConfiguredError, match="ABSTRACTVISION_BASE_URL"):
        backend_fields(read_settings(Owner()), "openai-compatible")

    fields = backend_fields(read_settings(Owner(base_url="http://localhost:1234/v1", timeout_s=5)), "openai-compatible")

    assert fields == {"base_url": "http://localhost:1234/v1", "timeout_s": 5.0}


def test_openais_key_goes_to_no_other_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    for url in ("http://localhost:1234/v1", "https://api.openai.com.example.org/v1"):
        assert "api_key" not in backend_fields(read_settings(Owner(base_url=url)), "openai")

    monkeypatch.setenv("OPENAI_BASE_URL", "http://gateway/v1")
    assert backend_fields(read_settings(Owner()), "openai")["api_key"] == "sk-1"


def test_a_key_of_the_environments_server_does_not_go_to_the_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABSTRACTVISION_BASE_URL", "http://theirs/v1")
    monkeypatch.setenv("ABSTRACTVISION_API_KEY", "sk-theirs")

    assert "api_key" not in backend_fields(read_settings(Owner(base_url="http://mine/v1")), "openai-compatible")
    assert backend_fields(read_settings(Owner()), "openai-compatible")["api_key"] == "sk-theirs"
    own = read_settings(Owner(base_url="http://mine/v1", api_key="sk-mine"))
    assert backend_fields(own, "openai-compatible")["api_key"] == "sk-mine"


def test_paths_of_the_server_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABSTRACTVISION_TEXT_TO_VIDEO_PATH", "/videos/generations")

    fields = backend_fields(read_settings(Owner(base_url="http://h/v1", models_path="/catalog")), "openai-compatible")

    assert (fields["text_to_video_path"], fields["models_path"]) == ("/videos/generations", "/catalog")


def test_stable_diffusion_cpp_is_configured_by_files(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendNotConfiguredError, match="ABSTRACTVISION_SDCPP_MODEL"):
        backend_fields(read_settings(Owner()), "sdcpp")
    monkeypatch.setenv("ABSTRACTVISION_SDCPP_EXTRA_ARGS", "--threads 2 --type 'f 16'")

    owner = Owner(sdcpp_diffusion_model="m.gguf", sdcpp_vae="v", sdcpp_bin="/bin/sd")
    fields = backend_fields(read_settings(owner), "sdcpp")

    assert fields == {
        "diffusion_model": "m.gguf",
        "vae": "v",
        "sd_cli_path": "/bin/sd",
        "extra_args": ("--threads", "2", "--type", "f 16"),
    }
    listed = read_settings(Owner(sdcpp_model="m", sdcpp_extra_args=["-v", 3]))
    assert backend_fields(listed, "sdcpp")["extra_args"] == ("-v", "3")


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("diffusers", {"model_id": "m", "allow_download": "perhaps"}),
        ("openai-compatible", {"base_url": "http://h/v1", "timeout_s": "-1"}),
        ("openai-compatible", {"base_url": "http://h/v1", "timeout_s": "soon"}),
        ("sdcpp", {"sdcpp_model": "m", "sdcpp_extra_args": "'unclosed"}),
    ],
)
def test_a_wrong_setting_is_named_with_where_it_may_be(kind: str, config: Any) -> None:
    with pytest.raises(BackendNotConfiguredError, match=r"^vision_\w+ or ABSTRACTVISION_\w+: "):
        backend_fields(read_settings(Owner(**config)), kind)


def test_a_flag_says_yes_no_or_nothing() -> None:
    found = [backend_fields(read_settings(Owner(allow_download=value)), "diffusers") for value in (True, "off", None)]

    assert found == [{"allow_download": True}, {"allow_download": False}, {}]


def test_the_working_folder_of_a_program_is_the_owners_to_choose() -> None:
    owner = Owner(sdcpp_model="m.gguf", sdcpp_cwd="/models")
    made = make_backend(owner, "sdcpp", VisionModelCapabilitiesRegistry())

    assert isinstance(made, StableDiffusionCppVisionBackend)
    assert (made.config.cwd, made.config.model) == ("/models", "m.gguf")


def test_a_local_backend_without_a_model_says_what_to_set() -> None:
    with pytest.raises(BackendNotConfiguredError, match="ABSTRACTVISION_DIFFUSERS_MODEL_ID"):
        VisionCapability(Owner(backend="huggingface"), "abstractvision:openai").t2i("a fox")


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(CapabilityNotSupportedError, match="did you mean procedural"):
        VisionCapability(Owner(backend="procedurl"), "abstractvision:openai").t2i("a fox")


# tools


class PlainTool:
    """`abstractcore.tool` as far as it matters: a decorator that keeps the function and what is said of it."""

    def __call__(self, *, name: str, **about: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def keep(function: Callable[..., Any]) -> Callable[..., Any]:
            assert function.__name__ == name
            return function

        return keep


@pytest.fixture
def store(tmp_path: Path) -> LocalAssetStore:
    return LocalAssetStore(tmp_path)


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch, store: LocalAssetStore) -> dict[str, Callable[..., Any]]:
    monkeypatch.setitem(sys.modules, "abstractcore", type("abstractcore", (), {"tool": PlainTool()}))
    made = make_vision_tools(
        vision_manager=VisionManager(ProceduralVisionBackend(), store), model_id="avbatch/procedural"
    )
    return {function.__name__: function for function in made}


def test_the_five_tools_answer_with_references(tools: dict[str, Callable[..., Any]], store: LocalAssetStore) -> None:
    image = tools["vision_text_to_image"]("a fox", width=32, height=32, seed=1)
    coded = "data:image/png;base64," + base64.b64encode(INPUT).decode().rstrip("=")
    edited = tools["vision_image_to_image"]("a fox", image_artifact=image, mask_b64=coded, seed=1)
    views = tools["vision_multi_view_image"]("a cup", reference_image_b64=coded, angles=["front"])
    video = tools["vision_text_to_video"]("waves", width=32, height=32, num_frames=2, fps=2)
    moved = tools["vision_image_to_video"](image_b64=coded, num_frames=2, fps=2, width=32, height=32)

    assert set(tools) == {
        "vision_text_to_image",
        "vision_image_to_image",
        "vision_multi_view_image",
        "vision_text_to_video",
        "vision_image_to_video",
    }
    for ref in (image, edited, *views, video, moved):
        assert is_artifact_ref(ref)
        assert store.load_bytes(ref["$artifact"])
    assert video["content_type"] == moved["content_type"] == "video/mp4"


def test_what_an_agent_leaves_out_takes_the_cards_default(tools: dict[str, Callable[..., Any]]) -> None:
    ref = tools["vision_text_to_image"]("a fox", steps=3)

    defaults = default_params(VisionModelCapabilitiesRegistry().card("avbatch/procedural"), "text_to_image")
    assert {"width", "height", "guidance_scale"} <= defaults.keys()
    assert ref["metadata"]["generation"]["parameters"] == {"prompt": "a fox", **defaults, "steps": 3}


def test_a_tool_refuses_what_the_card_refuses(tools: dict[str, Callable[..., Any]]) -> None:
    with pytest.raises(CapabilityNotSupportedError, match="below the minimum"):
        tools["vision_text_to_image"]("a fox", width=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "pass image_artifact or image_b64"),
        ({"image_b64": "data:image/png;base64,"}, "pass image_artifact or image_b64"),
        ({"image_b64": "nøt base64"}, "image_b64"),
        ({"image_artifact": {"id": "x"}}, "not a reference"),
    ],
)
def test_a_tools_input_that_cannot_be_had_is_named(
    tools: dict[str, Callable[..., Any]], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(GenerationError, match=message):
        tools["vision_image_to_image"]("a fox", **arguments)


def test_tools_need_a_store_a_known_model_and_abstractcore(
    tools: dict[str, Callable[..., Any]], store: LocalAssetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BackendNotConfiguredError, match="no store"):
        make_vision_tools(vision_manager=VisionManager(ProceduralVisionBackend()), model_id="avbatch/procedural")
    with pytest.raises(UnknownModelError):
        make_vision_tools(vision_manager=VisionManager(ProceduralVisionBackend(), store), model_id="nobody/knows")
    monkeypatch.setitem(sys.modules, "abstractcore", None)
    with pytest.raises(OptionalDependencyMissingError, match="pip install abstractcore"):
        make_vision_tools(vision_manager=VisionManager(ProceduralVisionBackend(), store), model_id="avbatch/procedural")


# AbstractCore itself


def test_abstractcores_own_registry_takes_the_plugin_and_its_tools(store: LocalAssetStore) -> None:
    registry_module = pytest.importorskip("abstractcore.capabilities.registry")
    registry = registry_module.CapabilityRegistry(Owner(backend="procedural"))
    register(registry)
    registry.set_preferred_backend("vision", "abstractvision:openai")

    assert decode_image(registry.vision.t2i("a fox", **SIZE)).size == (32, 32)
    assert registry.vision.list_provider_models(task="text_to_image") == []
    manager = VisionManager(ProceduralVisionBackend(), store)
    (first, *_) = make_vision_tools(vision_manager=manager, model_id="avbatch/procedural")
    assert is_artifact_ref(first("a fox", width=32, height=32))
    assert vars(first)["_tool_definition"].name == "vision_text_to_image"
