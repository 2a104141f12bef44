"""Models without a card: what they do is read from their own `model_index.json`, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from abstractvision_batch.backends.huggingface_diffusers.signatures import list_schedulers, read_pipeline
from abstractvision_batch.cli.app import app
from abstractvision_batch.errors import DependencyError
from abstractvision_batch.media.probe import probe
from abstractvision_batch.types import GeneratedAsset
from abstractvision_batch.vision_manager import VisionManager
from tests.support.tiny_diffusers import make_backend, text_request

pytestmark = pytest.mark.model


def test_a_video_model_without_a_card_makes_a_video(tiny_wan: Path) -> None:
    with make_backend(tiny_wan) as backend:
        video = VisionManager(backend).generate_video(
            "a fox", width=32, height=32, num_frames=5, fps=5, steps=1, seed=1, extra={"max_sequence_length": 16}
        )

    assert isinstance(video, GeneratedAsset)
    assert probe(video.data, video.mime_type).frames == 5


@pytest.mark.parametrize("task", [[], ["--task", "text_to_video"]])
def test_the_command_line_makes_it_too_and_finds_the_task_out(tiny_wan: Path, tmp_path: Path, task: list[str]) -> None:
    options = ["--width", "32", "--height", "32", "--steps", "1", "--extra", "max_sequence_length=16"]
    out = tmp_path / "fox.mp4"

    ended = CliRunner().invoke(
        app, ["generate", "a fox", *task, "--model-path", str(tiny_wan), *options, "--num-frames", "5", "-o", str(out)]
    )

    assert ended.exit_code == 0, ended.output
    assert probe(out.read_bytes(), "video/mp4").frames == 5


def test_what_a_model_does_is_known_without_importing_torch(tiny_wan: Path) -> None:
    code = (
        "import sys\n"
        "from abstractvision_batch.backends.huggingface_diffusers import HuggingFaceDiffusersBackendConfig as Config\n"
        "from abstractvision_batch.backends.huggingface_diffusers import HuggingFaceDiffusersVisionBackend as Backend\n"
        f"print(Backend(Config('a/b', path={str(tiny_wan)!r})).get_capabilities().supported_tasks)\n"
        "sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    )

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stdout) == (0, "['text_to_video']\n"), ended.stderr


def test_a_model_that_is_not_there_claims_no_limits(tmp_path: Path) -> None:
    with make_backend(tmp_path / "absent") as backend:
        assert backend.get_capabilities() is None


def test_diffusers_own_source_says_what_its_classes_take() -> None:
    """Read, not imported; against the classes themselves, so that a new way of writing them shows."""
    import inspect

    import diffusers

    for name in ("StableDiffusionPipeline", "FluxKontextPipeline", "WanImageToVideoPipeline", "LattePipeline"):
        found = read_pipeline(name)
        parameters = inspect.signature(getattr(diffusers, name).__call__).parameters
        assert found is not None
        assert found.required == {
            key: value.default is inspect.Parameter.empty
            for key, value in parameters.items()
            if key not in ("self", "args", "kwargs")
        }
    assert read_pipeline("NoSuchPipeline") is None
    known = set(list_schedulers())
    assert {"EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "DDIMScheduler"} <= known
    assert [name for name in known if not hasattr(diffusers, name)] == []


@pytest.mark.parametrize("index", ["model_index.json", "modular_model_index.json"])
def test_a_modular_pipeline_is_said_to_be_one(tmp_path: Path, index: str) -> None:
    """The class is there, so `pip install -U diffusers` was no help."""
    (tmp_path / index).write_text(json.dumps({"_class_name": "Flux3ModularPipeline"}))
    with make_backend(tmp_path) as backend, pytest.raises(DependencyError, match="modular pipeline") as error:
        backend.preload()

    assert "pip install" not in str(error.value)
    assert "model_index.json" in str(error.value)


def test_a_class_that_needs_an_absent_package_is_one_line(tiny_sd: Path, tmp_path: Path) -> None:
    """OmniGen's processor is not defined without torchvision, and a bare NameError came out of generate_image."""
    try:
        import torchvision  # type: ignore[import-not-found]  # noqa: F401
    except (ImportError, RuntimeError):
        pass
    else:
        pytest.skip("torchvision is here")
    (tmp_path / "model_index.json").write_text(
        json.dumps(
            {
                "_class_name": "OmniGenPipeline",
                "_diffusers_version": "0.42.1",
                "scheduler": ["diffusers", "DDIMScheduler"],
                "tokenizer": ["transformers", "CLIPTokenizer"],
                "transformer": ["diffusers", "UNet2DConditionModel"],
                "vae": ["diffusers", "AutoencoderKL"],
            }
        )
    )
    for source, name in (("scheduler",) * 2, ("tokenizer",) * 2, ("unet", "transformer"), ("vae",) * 2):
        (tmp_path / name).symlink_to(tiny_sd / source)
    with make_backend(tmp_path) as backend, pytest.raises(DependencyError) as error:
        backend.generate_image(text_request())

    assert "a package is not installed: NameError" in str(error.value)
    assert "(pip install torchvision)" in str(error.value)
