"""The real stable-diffusion.cpp, in its three modes, on a tiny random model."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from abstractvision_batch.backends import StableDiffusionCppVisionBackend
from abstractvision_batch.backends.base_backend import BatchItem
from abstractvision_batch.backends.stable_diffusion_cpp.binding_runner import BindingRunner
from abstractvision_batch.backends.stable_diffusion_cpp.cli_runner import CommandLineRunner
from abstractvision_batch.backends.stable_diffusion_cpp.config import Lora
from abstractvision_batch.backends.stable_diffusion_cpp.loras import LoraFolder
from abstractvision_batch.backends.stable_diffusion_cpp.prepare import prepare_generation
from abstractvision_batch.backends.stable_diffusion_cpp.runner import Runner, Watch
from abstractvision_batch.backends.stable_diffusion_cpp.server_runner import ServerRunner
from abstractvision_batch.errors import (
    DependencyError,
    GenerationCancelledError,
    GenerationError,
    WorkerCrashedError,
)
from abstractvision_batch.media.images import decode_image, pixel_sha256
from abstractvision_batch.types import GeneratedAsset, ImageEditRequest, ImageGenerationRequest, VisionRequest
from abstractvision_batch.verbs.run import run
from tests.backends.test_contract import a_picture
from tests.backends.test_sdcpp_program import is_running
from tests.support.sdcpp_models import MODES, config_for, random_tensors, save, transformer

pytestmark = pytest.mark.sdcpp

KEPT = ("server", "python")
LONG = ImageGenerationRequest("a fox", width=256, height=256, steps=100, seed=1)


def ask(prompt: str = "a fox", *, seed: int = 1, **extra: Any) -> ImageGenerationRequest:
    return ImageGenerationRequest(prompt, width=64, height=32, steps=2, seed=seed, guidance_scale=1.0, extra=extra)


def digest(item: BatchItem) -> str:
    assert isinstance(item, GeneratedAsset), item
    return pixel_sha256(decode_image(item.data))


@pytest.mark.parametrize("mode", MODES)
def test_the_environment_tells_builds_of_the_library_apart(mode: str, sdcpp_models: Path) -> None:
    with StableDiffusionCppVisionBackend(config_for(mode, sdcpp_models)) as backend:
        environment = backend.environment()

    assert environment["library"].startswith("libstable-diffusion")
    assert len(environment["library_sha256"]) == 64
    assert environment["device_name"]


@pytest.fixture(scope="module")
def backends(sdcpp_models: Path) -> Iterator[dict[str, StableDiffusionCppVisionBackend]]:
    """One backend per mode, kept for the module."""
    folder = str(sdcpp_models / "loras")
    made = {mode: StableDiffusionCppVisionBackend(config_for(mode, sdcpp_models, lora_dir=folder)) for mode in MODES}
    yield made
    for backend in made.values():
        backend.close()


@pytest.fixture
def runner(request: pytest.FixtureRequest, sdcpp_models: Path, tmp_path: Path) -> Iterator[Runner]:
    """What runs one mode, loaded."""
    kinds: dict[str, Any] = {"cli": CommandLineRunner, "server": ServerRunner, "python": BindingRunner}
    folder = LoraFolder(None)
    runner: Runner = kinds[request.param](config_for(request.param, sdcpp_models), folder)
    runner.load()
    yield runner
    runner.close()
    folder.close()


@pytest.mark.slow
def test_every_mode_gives_the_same_pixels(backends: dict[str, StableDiffusionCppVisionBackend]) -> None:
    requests: list[VisionRequest] = [
        ask(),
        # guidance, a negative prompt, and an ancestral sampler, whose noise the package would leave out by default
        replace(ask(sampler="euler_a"), guidance_scale=4.5, negative_prompt="a dog", seed=2**40 + 3),
        ask(sampler="dpm++2m", scheduler="karras", flow_shift=2.5),
        ImageEditRequest(
            "a fox", image=a_picture(), mask=a_picture(32, 32), steps=3, seed=5, strength=0.7, guidance_scale=1.0
        ),
        ask("a <lora:style:0.7>fox"),
    ]

    pixels = {mode: [digest(item) for item in backend.generate_batch(requests)] for mode, backend in backends.items()}

    assert len(set(pixels["cli"])) == len(requests)
    assert pixels["server"] == pixels["cli"]
    assert pixels["python"] == pixels["cli"]


@pytest.mark.slow
def test_a_reference_image_gives_the_same_pixels_in_every_mode(sdcpp_models: Path) -> None:
    """The server would crop it to another size, so there that is refused."""
    edit = ImageEditRequest("a fox", image=a_picture(60, 33), steps=2, seed=1, guidance_scale=1.0)
    other = ImageEditRequest("a dog", image=a_picture(60, 33), steps=2, seed=1, guidance_scale=1.0)
    drawn, sized = {}, {}
    for mode in MODES:
        with StableDiffusionCppVisionBackend(config_for(mode, sdcpp_models, image_input="reference")) as backend:
            items = backend.generate_batch([edit, other, replace(edit, width=64, height=64)])
        drawn[mode] = [digest(item) for item in items[:2]]
        sized[mode] = isinstance(items[2], GeneratedAsset)

    assert drawn["cli"] == drawn["server"] == drawn["python"]
    assert len(set(drawn["cli"])) == 2
    assert sized == {"cli": True, "server": False, "python": True}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("mode", KEPT)
def test_a_lora_acts_on_its_request_alone(mode: str, backends: dict[str, StableDiffusionCppVisionBackend]) -> None:
    """The older library's LoRA stayed in the weights, and its scale of 0 counted as 1."""
    backend = backends[mode]
    style = str(Path(str(backend.config.lora_dir)) / "style.safetensors")

    before, styled, after, off, tagged = (
        digest(item)
        for item in backend.generate_batch(
            [
                ask(),
                ask(loras=[{"source": style, "scale": 0.5}]),
                ask(),
                ask(loras=[{"source": style, "scale": 0}]),
                ask("a fox<lora:style:0.5>"),
            ]
        )
    )

    assert before == after == off
    assert before != styled == tagged


@pytest.mark.sampled(3)
@pytest.mark.parametrize("mode", MODES)
def test_a_lora_that_does_not_fit_is_an_error(
    mode: str, backends: dict[str, StableDiffusionCppVisionBackend], sdcpp_models: Path, tmp_path: Path
) -> None:
    """The library passes over it and draws without."""
    other = save(
        {"diffusion_model.nothing.lora_A.weight": random_tensors({"x": (4, 8)})["x"]}, tmp_path / "o.safetensors"
    )

    (item,) = backends[mode].generate_batch([ask(loras=[{"source": str(other)}])])

    assert isinstance(item, GenerationError)
    assert "o.safetensors fits the model" in str(item)


@pytest.mark.slow
@pytest.mark.parametrize("mode", KEPT)
def test_configured_loras_act_on_every_request(mode: str, sdcpp_models: Path) -> None:
    loras = (Lora(str(sdcpp_models / "loras" / "style.safetensors"), 0.5),)
    with StableDiffusionCppVisionBackend(config_for(mode, sdcpp_models, loras=loras)) as backend:
        always, without = (digest(item) for item in backend.generate_batch([ask(), ask(loras=[])]))

    assert always != without


@pytest.mark.parametrize("mode", MODES)
def test_a_wrong_model_is_said_before_anything_is_generated(mode: str, sdcpp_models: Path) -> None:
    """The package would crash this process when it frees what it could not load."""
    config = config_for(mode, sdcpp_models, model=str(sdcpp_models / "taef1.safetensors"))
    with (
        StableDiffusionCppVisionBackend(config) as backend,
        pytest.raises(DependencyError, match=r"cannot be loaded.*get sd version from file failed"),
    ):
        backend.generate_batch([ask()])


@pytest.mark.sampled(3)
@pytest.mark.parametrize("mode", MODES)
def test_a_native_crash_is_one_error_with_the_last_lines_of_the_log(
    mode: str, sdcpp_models: Path, tmp_path: Path
) -> None:
    """FLUX whose text encoder is another file: the library loads it and crashes when it generates."""
    flux = save(random_tensors(transformer(context=4096, pooled=True)), tmp_path / "flux.safetensors")
    wrong = str(sdcpp_models / "taef1.safetensors")
    config = config_for(mode, sdcpp_models, model=None, diffusion_model=str(flux), llm=wrong)

    with StableDiffusionCppVisionBackend(config) as backend:
        items = backend.generate_batch([ask(), ask(seed=2)])

    assert [type(item) for item in items] == [WorkerCrashedError] * 2
    for item in items:
        assert "crashed with SIG" in str(item)
        assert re.search(r"\w+\.[ch]pp:\d+ - ", str(item))


def test_a_crash_costs_one_row_and_never_its_neighbours(sdcpp_models: Path) -> None:
    config = config_for("python", sdcpp_models)
    folder = LoraFolder(None)
    runner = BindingRunner(config, folder)
    generation = prepare_generation(ask(), config, folder, side_multiple=8)
    before = runner.generate(generation, Watch(60))

    def crash(_step: int, _total: int | None) -> None:
        assert runner.pid is not None
        os.kill(runner.pid, signal.SIGSEGV)

    with pytest.raises(WorkerCrashedError, match="crashed with SIGSEGV"):
        runner.generate(generation, Watch(60, on_step=crash, expected_steps=2))
    after = runner.generate(generation, Watch(60))

    assert (before[0] == after[0]).all()
    runner.close()
    folder.close()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("runner", MODES, indirect=True)
def test_a_request_that_takes_too_long_is_ended(runner: Runner, sdcpp_models: Path) -> None:
    config = config_for("cli", sdcpp_models)
    folder = LoraFolder(None)
    long, short = (prepare_generation(request, config, folder, side_multiple=8) for request in (LONG, ask()))
    started = time.monotonic()

    with pytest.raises(GenerationError, match=r"not done after timeout_s = 0\.5 seconds"):
        runner.generate(long, Watch(0.5))

    assert time.monotonic() - started < 5
    assert runner.generate(short, Watch(60))
    folder.close()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("mode", MODES)
def test_cancelling_ends_the_running_request_and_the_next_batch_runs(
    mode: str, backends: dict[str, StableDiffusionCppVisionBackend]
) -> None:
    steps: list[int] = []

    items = backends[mode].generate_batch(
        [LONG, ask()], cancelled=lambda: bool(steps), on_step=lambda step, _: steps.append(step)
    )

    assert [type(item) for item in items] == [GenerationCancelledError] * 2
    assert len(steps) < 100
    assert digest(backends[mode].generate_batch([ask()])[0])


def test_one_server_serves_every_request_and_ends_with_the_backend(sdcpp_models: Path) -> None:
    config = config_for("server", sdcpp_models)
    folder = LoraFolder(None)
    runner = ServerRunner(config, folder)
    ports = set()
    for seed in range(3):
        runner.generate(prepare_generation(ask(seed=seed), config, folder, side_multiple=8), Watch(60))
        ports.add(runner.port)
    (port,) = ports
    assert port is not None and is_listening(port)

    runner.close()
    folder.close()

    assert not is_listening(port)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("mode", KEPT)
def test_what_keeps_the_model_ends_when_this_process_is_killed(mode: str, sdcpp_models: Path) -> None:
    config = config_for(mode, sdcpp_models)
    script = f"""
import os, signal
from abstractvision_batch.backends import StableDiffusionCppBackendConfig
from abstractvision_batch.backends.stable_diffusion_cpp.binding_runner import BindingRunner
from abstractvision_batch.backends.stable_diffusion_cpp.loras import LoraFolder
from abstractvision_batch.backends.stable_diffusion_cpp.server_runner import ServerRunner
runner = {"ServerRunner" if mode == "server" else "BindingRunner"}({config!r}, LoraFolder(None))
runner.load()
print({"runner.port" if mode == "server" else "runner.pid"}, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)

    assert ended.returncode == -signal.SIGKILL, ended.stderr
    port_or_pid = int(ended.stdout)
    alive = is_listening if mode == "server" else is_running
    deadline = time.monotonic() + 10
    while alive(port_or_pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_more_steps_than_the_server_runs_are_refused(backends: dict[str, StableDiffusionCppVisionBackend]) -> None:
    """It would run 100 and say nothing."""
    (item,) = backends["server"].generate_batch([replace(ask(), steps=101)])

    assert "steps: sd-server runs at most 100" in str(item)


@pytest.mark.parametrize("mode", MODES)
def test_an_unknown_sampler_is_an_error(mode: str, backends: dict[str, StableDiffusionCppVisionBackend]) -> None:
    """The server would take another one and say nothing."""
    (item,) = backends[mode].generate_batch([ask(sampler="nope")])

    assert isinstance(item, GenerationError)
    assert "nope" in str(item)


@pytest.mark.slow
def test_a_converted_model_is_read_as_gguf(sdcpp_models: Path, tmp_path: Path) -> None:
    config = config_for("cli", sdcpp_models)
    file = tmp_path / "ovis.gguf"
    command = [config.sd_cli_path, "-M", "convert", "-m", str(config.model), "-o", str(file), "--type", "f16"]
    subprocess.run(command, check=True, capture_output=True)

    with StableDiffusionCppVisionBackend(replace(config, model=str(file))) as backend:
        converted = digest(backend.generate_image(ask()))
    with StableDiffusionCppVisionBackend(config) as backend:
        assert digest(backend.generate_image(ask())) == converted
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(DependencyError, match=r"model: .*ovis\.gguf is truncated"):
        StableDiffusionCppVisionBackend(replace(config, model=str(file))).check_ready()


def test_a_job_runs_on_one_server(sdcpp_models: Path, tmp_path: Path) -> None:
    programs = Path(config_for("server", sdcpp_models).sd_cli_path)
    card = """
id: tiny/ovis
license: mit
tasks: {text_to_image: {params: {width: {}, height: {}, steps: {}}}}
backends: {sdcpp: {guidance: none}}
"""
    (tmp_path / "card.yaml").write_text(card)
    job = {
        "name": "sdcpp",
        "model": "tiny/ovis",
        "registry": {"paths": [str(tmp_path / "card.yaml")]},
        "backend": {
            "kind": "sdcpp",
            "mode": "server",
            "sd_cli_path": str(programs),
            "model_path": str(sdcpp_models / "ovis.safetensors"),
            "taesd": str(sdcpp_models / "taef1.safetensors"),
        },
        "prompts": {"source": ["a fox", "a cat", "a bad <lora:none:1>", "a dog"]},
        "params": {"width": 64, "height": 32, "steps": 2, "seed": 7},
        "output": {"path": str(tmp_path / "run")},
    }

    result = run(job)

    assert (result.succeeded, result.failed) == (3, 1)


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
