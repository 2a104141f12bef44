"""What is asked of the programs, seen by a small program that answers as sd-cli does and writes down its arguments."""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from abstractvision_batch.backends import StableDiffusionCppBackendConfig, StableDiffusionCppVisionBackend
from abstractvision_batch.backends.stable_diffusion_cpp import program as program_module
from abstractvision_batch.backends.stable_diffusion_cpp.config import Lora
from abstractvision_batch.backends.stable_diffusion_cpp.loras import LoraFolder
from abstractvision_batch.backends.stable_diffusion_cpp.prepare import prepare_generation
from abstractvision_batch.errors import (
    DependencyError,
    GenerationError,
    InvalidOutputError,
    OptionalDependencyMissingError,
    OutOfMemoryError,
    WorkerCrashedError,
)
from abstractvision_batch.types import ImageEditRequest, ImageGenerationRequest
from tests.backends.test_contract import a_picture
from tests.backends.test_sdcpp_files import safetensors

FLAGS = """
  -m, --model <string>       path to full model
  --diffusion-model <string> path to the standalone diffusion model
  --vae <string>             path to standalone vae model
  {taesd} <string>           path to taesd
  -t, --threads <int>        number of threads
  --rng                      RNG, one of [std_default, cuda, cpu]
  --sampler-rng              sampler RNG
  --lora-model-dir <string>  lora model directory
  --lora-apply-mode          the way to apply LoRA
  -p, --prompt <string>      the prompt, not a flag: --nonsense
  -n, --negative-prompt <string>  the negative prompt
  -i, --init-img <string>    path to the init image
  --mask <string>            path to the mask image
  -W, --width <int>          image width
  -H, --height <int>         image height
  --steps <int>              steps
  --cfg-scale <float>        scale
  --guidance <float>         distilled guidance scale
  --strength <float>         strength
  -s, --seed                 RNG seed
  --eta <float>              eta
  --offload-to-cpu           place the weights in RAM
  -o, --output <string>      path to write result image to
"""
PROGRAM = """#!{python}
import json, os, pathlib, signal, subprocess, sys, time
if "--help" in sys.argv:
    print("[ERROR] invalid parameter"); print({flags!r}); sys.exit(0)
arguments = sys.argv[1:]
pathlib.Path(__file__ + ".json").write_text(json.dumps(arguments))
prompt = arguments[arguments.index("--prompt") + 1]
print("[ERROR] stable-diffusion.cpp:1 - said at last", flush=True)
if prompt == "crash": os.kill(os.getpid(), signal.SIGABRT)
if prompt == "fail": sys.exit(1)
if prompt == "memory": print("[ERROR] ggml: failed to allocate 1 GB"); sys.exit(1)
if prompt == "hang":
    child = subprocess.Popen(["sleep", "600"])
    pathlib.Path(__file__ + ".pid").write_text(str(child.pid))
    time.sleep(600)
if prompt != "nothing":
    from PIL import Image
    number = (lambda flag: int(arguments[arguments.index(flag) + 1]))
    size = number("--width") + (64 if prompt == "larger" else 0), number("--height")
    Image.new("RGB", size, "black" if prompt == "black" else "red").save(arguments[arguments.index("--output") + 1] % 0)
"""


class FakeProgram:
    """An sd-cli whose help is chosen and whose arguments are kept."""

    def __init__(self, folder: Path, *, taesd: str = "--taesd", flags: str = FLAGS) -> None:
        self.path = folder / "sd-cli"
        self.path.write_text(PROGRAM.format(python=sys.executable, flags=flags.replace("{taesd}", taesd)))
        self.path.chmod(self.path.stat().st_mode | stat.S_IXUSR)
        model = folder / "m.safetensors"
        model.write_bytes(safetensors({"model.diffusion_model.img_in.weight": (8, 4)}))
        self.config = StableDiffusionCppBackendConfig(str(self.path), model=str(model), timeout_s=30, n_threads=3)

    def backend(self, **changes: Any) -> StableDiffusionCppVisionBackend:
        return StableDiffusionCppVisionBackend(replace(self.config, **changes))

    @property
    def arguments(self) -> list[str]:
        found: list[str] = json.loads(Path(f"{self.path}.json").read_text())
        return found

    def value(self, flag: str) -> str:
        return self.arguments[self.arguments.index(flag) + 1]


@pytest.fixture
def program(tmp_path: Path) -> FakeProgram:
    return FakeProgram(tmp_path)


def ask(prompt: str = "a fox", **changes: Any) -> ImageGenerationRequest:
    return replace(ImageGenerationRequest(prompt, width=64, height=32, steps=2, seed=7), **changes)


def test_a_request_is_spelled_in_the_flags_of_the_program(program: FakeProgram) -> None:
    with program.backend() as backend:
        asset = backend.generate_image(ask(negative_prompt="a dog", guidance_scale=3, extra={"eta": 0.5}))

    values = {flag: program.value(flag) for flag in ("--width", "--height", "--steps", "--seed", "--cfg-scale")}
    assert values == {"--width": "64", "--height": "32", "--steps": "2", "--seed": "7", "--cfg-scale": "3.0"}
    assert program.value("--negative-prompt") == "a dog"
    assert (program.value("--rng"), program.value("--sampler-rng"), program.value("--eta")) == ("cpu", "cpu", "0.5")
    assert "--disable-image-metadata" not in program.arguments  # this program has no such flag
    assert (asset.mime_type, asset.metadata["seed"], asset.metadata["mode"]) == ("image/png", 7, "cli")


def test_an_unseeded_request_reports_its_seed(program: FakeProgram) -> None:
    with program.backend() as backend:
        asset = backend.generate_image(ask(seed=None))

    assert str(asset.metadata["seed"]) == program.value("--seed")


@pytest.mark.parametrize("taesd", ["--taesd", "--tae"])
def test_the_name_of_a_flag_is_probed(taesd: str, tmp_path: Path) -> None:
    program = FakeProgram(tmp_path, taesd=taesd)
    with program.backend(taesd=program.config.model) as backend:
        backend.generate_image(ask())

    assert program.value(taesd) == program.config.model


def test_a_flag_that_the_program_lacks_is_an_error_before_it_runs(tmp_path: Path) -> None:
    program = FakeProgram(tmp_path, flags=FLAGS.replace("  {taesd} <string>           path to taesd\n", ""))
    with (
        program.backend(taesd=program.config.model) as backend,
        pytest.raises(DependencyError, match=r"sd-cli for taesd: this build has no --taesd or --tae"),
    ):
        backend.generate_image(ask())

    assert not Path(f"{program.path}.json").exists()


def test_another_program_of_the_same_name_is_refused(tmp_path: Path) -> None:
    """There is an unrelated package called sd-cli."""
    program = FakeProgram(tmp_path, flags="usage: sd-cli [--size SIZE]")

    with program.backend() as backend, pytest.raises(DependencyError, match=r"--help is not that of stable-diffusion"):
        backend.check_ready()


def test_extra_cannot_move_the_output_or_name_an_unknown_parameter(program: FakeProgram) -> None:
    with program.backend() as backend:
        items = backend.generate_batch(
            [ask(extra={"output": "/tmp/elsewhere.png"}), ask(extra={"gudance": 1.0}), ask(extra={"eta": "fast"})]
        )

    assert [str(item).split(" (")[0] for item in items] == [
        "extra.output: unknown",
        "extra.gudance: unknown",
        "extra.eta: 'fast' is not a finite number",
    ]
    assert "did you mean guidance?" in str(items[1])
    assert not Path(f"{program.path}.json").exists()


@pytest.mark.parametrize("argument", ["--output", "-m", "--seed", "--listen-port", "--nonsense"])
def test_extra_args_are_those_of_the_program_and_not_the_backends(argument: str, program: FakeProgram) -> None:
    backend = program.backend(extra_args=(argument, "x"))

    with pytest.raises(DependencyError, match=f"extra_args: .*{argument}"):
        backend.check_ready()


def test_extra_args_reach_the_program(program: FakeProgram) -> None:
    with program.backend(extra_args=("--offload-to-cpu",)) as backend:
        backend.generate_image(ask())

    assert "--offload-to-cpu" in program.arguments


def test_images_go_as_files_of_the_size_asked_for(program: FakeProgram) -> None:
    with program.backend() as backend:
        backend.edit_image(ImageEditRequest("a fox", image=a_picture(50, 30), mask=a_picture(10, 10), steps=2, seed=1))

    assert (program.value("--width"), program.value("--height")) == ("56", "32")  # the next multiples of 8
    assert program.value("--init-img").endswith("init.png")
    assert program.value("--mask").endswith("mask.png")
    assert program.value("--strength") == "0.75"


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("prompt", "kind", "said"),
    [
        ("crash", WorkerCrashedError, r"it crashed with SIGABRT \(\[ERROR\] stable-diffusion.cpp:1 - said at last\)"),
        ("fail", GenerationError, r"it ended with status 1 \(.*said at last\)"),
        ("memory", OutOfMemoryError, "failed to allocate"),
        ("nothing", InvalidOutputError, "wrote no picture"),
        ("black", InvalidOutputError, "all black"),
        ("larger", InvalidOutputError, "made 128x32 where 64x32 was asked for"),
        ("nul\0", GenerationError, "prompt: it has a NUL character"),
        ("x" * 140_000, GenerationError, "prompt: too long for a command line"),
    ],
)
def test_a_failure_is_one_clear_error_and_the_next_request_runs(
    prompt: str, kind: type[GenerationError], said: str, program: FakeProgram
) -> None:
    with program.backend() as backend:
        bad, good = backend.generate_batch([ask(prompt), ask()])

    assert type(bad) is kind
    with pytest.raises(kind, match=said):
        raise bad
    assert not isinstance(good, GenerationError)


def test_a_program_that_hangs_is_ended_with_all_that_it_started(program: FakeProgram) -> None:
    with program.backend(timeout_s=1.5) as backend:
        (item,) = backend.generate_batch([ask("hang")])

    assert "not done after timeout_s = 1.5 seconds" in str(item)
    started = int(Path(f"{program.path}.pid").read_text())
    deadline = time.monotonic() + 5
    while is_running(started):
        assert time.monotonic() < deadline, "what the program started still runs"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")  # ended, and not yet missed


def test_the_mode_is_chosen_by_what_is_there(program: FakeProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: tuple[Literal["cli", "server"], ...] = ("cli", "server")
    assert program.backend().mode == "cli"

    monkeypatch.setenv("PATH", str(program.path.parent))
    assert StableDiffusionCppVisionBackend(StableDiffusionCppBackendConfig()).mode == "cli"

    monkeypatch.setenv("PATH", "")
    for mode in modes:
        backend = StableDiffusionCppVisionBackend(StableDiffusionCppBackendConfig(mode=mode))
        with pytest.raises(OptionalDependencyMissingError, match=r"no program sd-(cli|server)"):
            _ = backend.mode


def test_fault_a_missing_program_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It took the newest release from the network, on by default, without a checksum."""
    connections: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda *arguments: connections.append(arguments))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: connections.append(arguments))
    monkeypatch.setattr(program_module, "PACKAGE", "a_package_nobody_has")
    monkeypatch.setenv("PATH", "")
    model = tmp_path / "model.safetensors"
    model.write_bytes(safetensors({"model.diffusion_model.input_blocks.0.0.weight": (1,)}))
    backend = StableDiffusionCppVisionBackend(StableDiffusionCppBackendConfig(model=str(model)))

    for call in (backend.check_ready, backend.preload):
        with pytest.raises(OptionalDependencyMissingError, match="not installed"):
            call()

    assert connections == []


@pytest.mark.parametrize(
    ("guidance", "scale", "expected"),
    [
        ("cfg", None, {"cfg_scale": 7.0}),
        ("cfg", 3, {"cfg_scale": 3.0}),
        ("cfg", 0, {"cfg_scale": 1.0}),
        ("distilled", 3.5, {"cfg_scale": 1.0, "guidance": 3.5}),
        ("none", 0, {"cfg_scale": 1.0}),
    ],
)
def test_guidance_means_what_the_card_says(
    guidance: Any, scale: float | None, expected: dict[str, float], tmp_path: Path
) -> None:
    """A scale of 0 is without guidance in Diffusers, and without the prompt in stable-diffusion.cpp."""
    config = StableDiffusionCppBackendConfig(guidance=guidance)
    folder = LoraFolder(None)

    values = prepare_generation(ask(guidance_scale=scale), config, folder, side_multiple=8).values

    assert {key: values[key] for key in ("cfg_scale", "guidance") if key in values} == expected


@pytest.mark.parametrize(
    ("request_changes", "said"),
    [
        ({"width": 100}, r"width: 100 is not a multiple of 64 up to 16384 \(nearest: 64, 128\)"),
        ({"steps": 0}, "steps: 0 is not above 0"),
        ({"seed": -1}, "seed: -1 is not in 0"),
        ({"guidance_scale": -1.0}, "guidance_scale: -1.0 is not a number from 0"),
        ({"prompt": "a <lora:x:1> fox"}, "needs a folder of LoRAs"),
        ({"extra": {"loras": [{"scale": 1}]}}, "extra.loras: not a list of"),
        ({"extra": {"loras": [{"source": "/none"}]}}, "LoRA: /none is not there"),
    ],
)
def test_a_value_that_would_be_changed_in_silence_is_an_error(request_changes: dict[str, Any], said: str) -> None:
    folder = LoraFolder(None)

    with pytest.raises(GenerationError, match=said):
        prepare_generation(ask(**request_changes), StableDiffusionCppBackendConfig(), folder, side_multiple=64)


def test_a_prompt_names_no_file_outside_the_folder_of_loras(tmp_path: Path) -> None:
    (tmp_path / "loras").mkdir()
    for name in ("secret.safetensors", "loras/style.safetensors"):
        (tmp_path / name).write_bytes(safetensors({"a": (2, 2)}))
    folder = LoraFolder(str(tmp_path / "loras"))

    prompt, found = folder.read_prompt("a <lora:style:0.5> fox")
    assert (prompt, found) == ("a  fox", [Lora(str(tmp_path / "loras" / "style.safetensors"), 0.5)])
    for name in ("../secret", str(tmp_path / "secret.safetensors"), "none"):
        with pytest.raises(GenerationError, match="is not in"):
            folder.read_prompt(f"<lora:{name}:1>")
    with pytest.raises(GenerationError, match="'strong' is not a number"):
        folder.read_prompt("<lora:style:strong>")
    folder.close()
    folder.close()
