"""`generate`: one image or video now, through the manager, its checks and the same backends as a batch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from abstractvision_batch.backends.from_environment import VARIABLES
from abstractvision_batch.cli.app import app
from abstractvision_batch.media.images import to_rgb_array
from abstractvision_batch.media.metadata.embed import read_parameters
from abstractvision_batch.media.probe import probe, sniff_mime_type
from abstractvision_batch.storage.asset_store import LocalAssetStore
from tests.support.openai_server import OpenAIServer, running_server
from tests.support.sdcpp_models import config_for, write_models

PROCEDURAL = ("--backend", "procedural", "--steps", "2", "--width", "32", "--height", "24")


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, with no variable of the developer's."""
    monkeypatch.chdir(tmp_path)
    for variable in VARIABLES:
        monkeypatch.delenv(variable.name, raising=False)


@pytest.fixture(scope="module")
def server() -> Iterator[OpenAIServer]:
    with running_server() as server:
        yield server


@pytest.fixture(scope="module")
def sdcpp_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def photo(tmp_path: Path) -> str:
    Image.linear_gradient("L").resize((40, 30)).convert("RGB").save(tmp_path / "photo.png")
    return "photo.png"


def generate(*args: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["generate", *args])
    assert result.exit_code == code, result.output
    return result


def generate_json(*args: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(generate(*args, "--json").stdout)
    return data


@pytest.mark.model
def test_the_embedded_model_draws_without_any_option(tmp_path: Path) -> None:
    """With its card's guidance of 2.5, not the pipeline's own 7.5."""
    answer = generate_json("a large red circle on a white background", "--seed", "7", "--steps", "8")

    (output,) = answer["outputs"]
    assert (answer["model"], answer["backend"], answer["task"]) == ("avbatch/shapes64", "diffusers", "text_to_image")
    assert output["path"] == "a-large-red-circle-on-a-white-background-7.png"
    assert (output["width"], output["height"], output["seed"]) == (64, 64, 7)
    assert output["metadata"]["generation"]["parameters"]["guidance_scale"] == 2.5
    red, green, blue = to_rgb_array(Image.open(tmp_path / output["path"]))[32, 32]
    assert red > 150 and green < 120 and blue < 120


@pytest.mark.model
def test_a_prompt_beyond_the_embedded_models_few_words_gets_a_note() -> None:
    said = generate("a fox in the snow", "--steps", "1").stderr
    silent = generate("a small red circle", "--steps", "1").stderr

    assert "not on fox, in, snow" in said
    assert "choose another model with --model" in said
    assert "note" not in silent


def test_the_path_is_printed_and_no_file_is_overwritten(tmp_path: Path) -> None:
    printed = [generate("A fox, in snow!", *PROCEDURAL, "--seed", "7").stdout.strip() for _ in range(2)]

    assert printed == ["a-fox-in-snow-7.png", "a-fox-in-snow-7-2.png"]
    assert (tmp_path / printed[0]).read_bytes() == (tmp_path / printed[1]).read_bytes()


def test_the_extension_of_the_output_says_its_format(tmp_path: Path) -> None:
    for name, mime_type in (("a.png", "image/png"), ("a.jpg", "image/jpeg"), ("a.webp", "image/webp")):
        generate("a fox", *PROCEDURAL, "-o", name)

        assert sniff_mime_type((tmp_path / name).read_bytes()) == mime_type


def test_several_have_seeds_that_follow_each_other_and_numbered_names() -> None:
    answer = generate_json("a fox", *PROCEDURAL, "--seed", "7", "--count", "3", "-o", "fox.png")

    assert [(one["path"], one["seed"]) for one in answer["outputs"]] == [
        ("fox-1.png", 7),
        ("fox-2.png", 8),
        ("fox-3.png", 9),
    ]


def test_a_seed_that_was_drawn_is_reported_and_repeats_the_picture() -> None:
    first = generate_json("a fox", *PROCEDURAL)["outputs"][0]
    again = generate_json("a fox", *PROCEDURAL, "--seed", str(first["seed"]))["outputs"][0]

    assert Path(first["path"]).read_bytes() == Path(again["path"]).read_bytes()


@pytest.mark.parametrize(
    ("args", "task", "size"),
    [
        ((), "text_to_image", (32, 24)),
        (("--image", "photo.png", "--mask", "photo.png"), "image_to_image", (32, 24)),
        (("--num-frames", "3"), "text_to_video", (32, 24)),
        (("--image", "photo.png", "--fps", "4", "--num-frames", "3"), "image_to_video", (32, 24)),
        (("--task", "multi_view_image", "--image", "photo.png"), "multi_view_image", (32, 24)),
    ],
)
def test_the_task_follows_from_what_is_given(
    args: tuple[str, ...], task: str, size: tuple[int, int], photo: str
) -> None:
    answer = generate_json("a fox", *PROCEDURAL, *args)

    assert answer["task"] == task
    assert len(answer["outputs"]) == (4 if task == "multi_view_image" else 1)
    for output in answer["outputs"]:
        info = probe(Path(output["path"]).read_bytes(), output["content_type"])
        assert (info.width, info.height) == size
        assert info.frames == (3 if task.endswith("video") else 1)


def test_views_are_files_named_by_their_angle() -> None:
    args = ("--task", "multi_view_image", "--extra", "angles=[front, back]", "-o", "fox.png")

    assert generate("a fox", *PROCEDURAL, *args).stdout.split() == ["fox-front.png", "fox-back.png"]


def test_a_store_answers_with_a_reference(tmp_path: Path) -> None:
    ref = json.loads(generate("a fox", *PROCEDURAL, "--store", "assets").stdout)

    store = LocalAssetStore(tmp_path / "assets")
    assert sniff_mime_type(store.load_bytes(ref["$artifact"])) == "image/png"
    assert ref["metadata"]["generation"]["parameters"]["prompt"] == "a fox"


def test_a_store_may_be_a_variable_and_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABSTRACTVISION_STORE_DIR", "memory://generated")

    assert "$artifact" in json.loads(generate("a fox", *PROCEDURAL).stdout)
    assert generate("a fox", *PROCEDURAL, "-o", "fox.png").stdout == "fox.png\n"


def test_open_hands_the_file_to_the_desktop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opener = tmp_path / "bin" / "xdg-open"
    opener.parent.mkdir()
    opener.write_text('#!/bin/sh\necho "$1" >> opened\n')
    opener.chmod(0o755)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("PATH", str(opener.parent), prepend=":")

    generate("a fox", *PROCEDURAL, "-o", "fox.png", "--open")

    assert (tmp_path / "opened").read_text() == "fox.png\n"


def test_any_field_of_the_backend_s_section_can_be_set() -> None:
    args = (*PROCEDURAL, "--set", "fail_when=fox", "--set", "delay_s=0.01")

    assert "fail_when 'fox'" in generate("a fox", *args, code=1).stderr
    generate("a cat", *args)


@pytest.mark.sdcpp
def test_stable_diffusion_cpp_draws_from_its_files(sdcpp_models: Path) -> None:
    fields = config_for("python", sdcpp_models)  # skips where the package is not installed
    args = ("--backend", "sdcpp", "--model-path", str(fields.model), "--set", f"taesd={fields.taesd}")

    answer = generate_json(
        "a fox", *args, "--set", "mode=python", "--width", "64", "--height", "32", "--steps", "2", "--seed", "7"
    )

    assert (answer["outputs"][0]["width"], answer["outputs"][0]["height"]) == (64, 32)


def test_a_server_is_named_and_its_key_comes_from_a_variable(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "s3cret-key")

    args = (
        "--base-url",
        server.base_url,
        "--api-key-env",
        "MY_KEY",
        "--model",
        "sd",
        "--width",
        "64",
        "--height",
        "32",
    )
    answer = generate("a fox", *args, "--extra", "quality=high", "--json")

    assert server.last.headers["authorization"] == "Bearer s3cret-key"
    assert server.last.fields["size"] == "64x32"
    assert (server.last.fields["model"], server.last.fields["quality"]) == ("sd", "high")
    assert "s3cret-key" not in answer.output


def test_the_environment_configures_and_options_win(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABSTRACTVISION_BACKEND", "openai-compatible")
    monkeypatch.setenv("ABSTRACTVISION_BASE_URL", server.base_url)
    monkeypatch.setenv("ABSTRACTVISION_API_KEY", "from-environment")
    monkeypatch.setenv("ABSTRACTVISION_MODEL_ID", "env-model")

    generate("a fox", "--width", "32", "--height", "32")
    by_environment = server.last
    generate("a fox", "--width", "32", "--height", "32", "--backend", "openai", "--model", "other")

    assert by_environment.headers["authorization"] == "Bearer from-environment"
    assert by_environment.fields["model"] == "env-model"
    assert server.last.fields["model"] == "other"


@pytest.mark.parametrize(
    ("variables", "is_sent"),
    [
        ({"OPENAI_API_KEY": "sk-1"}, False),
        ({"ABSTRACTVISION_API_KEY": "sk-1"}, True),
        ({"ABSTRACTVISION_API_KEY": "sk-1", "ABSTRACTVISION_BASE_URL": "http://127.0.0.1:1/v1"}, False),
    ],
)
def test_a_key_goes_only_to_the_server_it_was_meant_for(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], is_sent: bool
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    generate("a fox", "--base-url", server.base_url, "--width", "32", "--height", "32")

    assert ("authorization" in server.last.headers) == is_sent


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("a fox", *PROCEDURAL, "--steps", "0"), "steps: 0 is below the minimum 1"),
        (("a fox", "--width", "100", "--steps", "500"), "width: 100 is not allowed"),
        (("a fox", "--width", "100", "--steps", "500"), "steps: 500 is above the maximum"),
        (("a fox", "--task", "text_to_imge"), "did you mean text_to_image?"),
        (("a fox", "--backend", "difusers"), "did you mean diffusers?"),
        (("a fox", "--model", "avbatch/procedural", "--backend", "diffusers"), "backends that do: procedural"),
        (("a fox", "--task", "image_to_video"), "has no task image_to_video"),
        (("a fox", "--extra", "steps"), "--extra steps: is not of the form key=value"),
        (("a fox", "--backend", "procedural", "--set", "delya_s=1"), "did you mean delay_s?"),
        (("a fox", "--extra", "num_inference_steps=3"), "(write steps)"),
        (("a fox", "--image", "absent.png"), "image: absent.png: cannot be read"),
        (("a fox", "-o", "fox.gif"), "fox.gif"),
        (("a fox", "-o", "absent/fox.png"), "no folder absent"),
        (("a fox", "-o", "fox.png", "--store", "here"), "a file or to a store"),
        (("a fox", "--backend", "openai"), "--base-url URL"),
        (("a fox", "--base-url", "https://api.openai.com/v1"), "OPENAI_API_KEY"),
        (("a fox", "--dtype", "fp16"), "did you mean float16?"),
        ((), "prompt: missing"),
    ],
)
def test_a_mistake_ends_with_2_before_anything_is_generated(args: tuple[str, ...], said: str, tmp_path: Path) -> None:
    result = generate(*args, code=2)

    assert said in result.stderr
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_all_mistakes_of_a_request_are_reported_at_once() -> None:
    result = generate("a fox", "--width", "100", "--steps", "500", "--json", code=2)

    assert len(json.loads(result.stdout)["problems"]) == 2
    assert result.stderr.splitlines()[-1] == "2 problems; nothing was started"


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABSTRACTVISION_DIFFUSERS_TORCH_DTYPE", "fp16")
    monkeypatch.setenv("ABSTRACTVISION_DIFFUSERS_DEVICE", "cpu")

    assert generate("a fox", code=2).stderr.startswith("ABSTRACTVISION_DIFFUSERS_TORCH_DTYPE: backend.dtype: ")


def test_a_model_that_is_not_there_ends_with_3() -> None:
    result = generate("a fox", "--model", "nobody/nothing", code=3)

    assert "avbatch fetch nobody/nothing" in result.stderr
    assert "nobody/nothing has no model card" in result.stderr


@pytest.mark.parametrize("name", ["fox.png", "fox.jpg", "fox.webp"])
def test_a_file_says_what_made_it_in_the_format_of_its_name(tmp_path: Path, photo: str, name: str) -> None:
    arguments = ("a fox", *PROCEDURAL, "--seed", "7", "--image", photo, "--strength", "0.5", "-o", name)

    generate(*arguments)

    said = read_parameters((tmp_path / name).read_bytes())
    expected = {"prompt": "a fox", "seed": 7, "steps": 2, "task": "image_to_image", "strength": 0.5, "width": 32}
    assert said.items() >= {**expected, "model": "avbatch/procedural", "backend": "procedural"}.items()
    assert said["input_image"].startswith("sha256:")


def test_a_video_says_what_made_it_too(tmp_path: Path) -> None:
    generate("a fox", *PROCEDURAL, "--num-frames", "2", "--fps", "2", "-o", "fox.mp4")

    assert read_parameters((tmp_path / "fox.mp4").read_bytes())["num_frames"] == 2


def test_a_file_need_not_say_what_made_it(tmp_path: Path) -> None:
    generate("a fox", *PROCEDURAL, "-o", "fox.png", "--no-embed-metadata")

    assert read_parameters((tmp_path / "fox.png").read_bytes()) == {}


def test_a_picture_of_another_aspect_is_refused_unless_a_fit_is_chosen(photo: str) -> None:
    size = ("--backend", "procedural", "--width", "32", "--height", "32")

    refused = generate("a fox", *size, "--image", photo, code=2)
    answer = generate_json("a fox", *size, "--image", photo, "--fit", "crop")

    assert "image_to_image: image: 40x30 has another aspect than 32x32" in refused.output
    assert (answer["outputs"][0]["width"], answer["outputs"][0]["height"]) == (32, 32)


def test_one_side_computes_the_other_from_the_picture(photo: str) -> None:
    (output,) = generate_json("a fox", "--backend", "procedural", "--width", "32", "--image", photo)["outputs"]

    assert (output["width"], output["height"]) == (32, 24)
