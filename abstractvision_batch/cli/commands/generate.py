"""`generate`: one image or video now, without a job."""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import Container, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from abstractvision_batch.cli.command import JsonOption, RegistryOption, check_choice
from abstractvision_batch.cli.output import print_json, print_lines, print_notes
from abstractvision_batch.errors import SpecError
from abstractvision_batch.media.frame_rates import tidy_fps

if TYPE_CHECKING:
    from abstractvision_batch.backends.base_backend import VisionBackend
    from abstractvision_batch.backends.from_environment import Target
    from abstractvision_batch.types import Task

MAX_DRAWN_SEED = 2**31


def generate(
    prompt: Annotated[str | None, typer.Argument(metavar="PROMPT", help="What to generate.")] = None,
    task: Annotated[str | None, typer.Option(help="By default what the model does with what is given.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Id of a model card or hub repository, or the server's own.  [avbatch/shapes64]")
    ] = None,
    backend: Annotated[str | None, typer.Option(metavar="KIND", help="By default what runs the model.")] = None,
    image: Annotated[str | None, typer.Option(metavar="FILE", help="The input image.")] = None,
    mask: Annotated[
        str | None, typer.Option(metavar="FILE", help="Which pixels change: its white or transparent ones.")
    ] = None,
    fit: Annotated[
        str, typer.Option(help="How an image comes to a size of another aspect: error, crop, pad, stretch.")
    ] = "error",
    negative_prompt: Annotated[str | None, typer.Option(help="What the image should not show.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="Classifier-free guidance weight.")] = None,
    strength: Annotated[float | None, typer.Option(help="How much of the input image is replaced: 0 to 1.")] = None,
    num_frames: Annotated[int | None, typer.Option(help="Frames of a video.")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames per second of a video.")] = None,
    seed: Annotated[int | None, typer.Option(help="By default a random one, which is reported.")] = None,
    extra: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="A parameter that only the backend knows; repeatable."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=1000, help="How many, with seeds that follow each other.")] = 1,
    base_url: Annotated[str | None, typer.Option(metavar="URL", help="The server of backend openai.")] = None,
    api_key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Variable that holds the server's key.")
    ] = None,
    model_path: Annotated[str | None, typer.Option(metavar="PATH", help="Folder or file of the weights.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, float16, bfloat16.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Another field of a job's backend section; repeatable."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="By default a new file here, named by the prompt."),
    ] = None,
    store: Annotated[
        str | None, typer.Option(metavar="DIR", help="Put it into this asset store (folder, URL or default) instead.")
    ] = None,
    embed_metadata: Annotated[bool, typer.Option(help="Write into a file what made it.")] = True,
    open_it: Annotated[bool, typer.Option("--open", help="Show it with the desktop's program for it.")] = False,
    registry: RegistryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Generate one image or video now.

    What is left out takes the model card's default. Prints the file's path; with --store the reference to the artifact.
    """
    from abstractvision_batch.backends.from_environment import choose_target, read_choice
    from abstractvision_batch.cli.output_files import (
        check_file_name,
        keep_output,
        open_in_viewer,
        open_store,
        read_input,
    )
    from abstractvision_batch.cli.request_words import parse_assignments
    from abstractvision_batch.model_capabilities import VisionModelCapabilitiesRegistry
    from abstractvision_batch.types import FITS, TASKS
    from abstractvision_batch.verbs.generate import generate, open_manager

    check_choice("--task", task, TASKS)
    check_choice("--fit", fit, FITS)
    if output is not None and store is not None:
        raise SpecError("--store: an output goes to a file or to a store (leave out one of --output and --store)")
    cards = VisionModelCapabilitiesRegistry(paths=[Path(path) for path in registry or ()])
    fields = {
        "base_url": base_url,
        "api_key": None if api_key_env is None else {"env": api_key_env},
        "model_path": model_path,
        "device": device,
        "dtype": dtype,
        **parse_assignments("--set", settings or []),
    }
    target = choose_target(cards, os.environ, kind=backend, model=model, fields=fields)
    params: dict[str, Any] = {
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "width": width,
        "height": height,
        "steps": steps,
        "guidance_scale": guidance_scale,
        "strength": strength,
        "num_frames": num_frames,
        "fps": fps and tidy_fps(fps),
        "extra": parse_assignments("--extra", extra or []),
    }
    params = {name: value for name, value in params.items() if value is not None}
    params |= {name: read_input(path, name) for name, path in (("image", image), ("mask", mask)) if path is not None}
    place = store if output is not None or store is not None else read_choice(os.environ, "store")
    into = None if place is None else open_store(place)
    if target.card is None and not as_json and target.backend.needs_card:
        print_notes(f"note: {target.model} has no model card, so nothing but the backend checks the parameters")
    if target.card is not None and (unknown := target.card.unknown_words(prompt or "")):
        print_notes(
            f"note: {target.model} was trained on few words, and not on {', '.join(unknown)}: it draws prompts such as "
            f'"{target.card.example_prompt}" (choose another model with --model; `avbatch models` lists them)'
        )
    manager = open_manager(target, cards, into)
    manager.fit = next(one for one in FITS if one == fit)
    assert manager.backend is not None
    what = next((one for one in TASKS if one == task), None) or infer_task(target, params, manager.backend)
    if output is not None:
        check_file_name(output, what)
    made: list[dict[str, Any]] = []
    start = time.monotonic()
    try:
        for number in range(count):
            params |= choose_seed(target, seed, number)
            outputs = generate(manager, target, what, params, on_step=step_printer())
            for one in outputs:
                which = number if count > 1 else None
                found = keep_output(
                    one, into, output, prompt or what, which, target.backend.kind if embed_metadata else None
                )
                made.append(found)
                if not as_json:
                    print_lines(_line(found))
                if open_it and found.get("path"):
                    open_in_viewer(Path(found["path"]))
    finally:
        manager.backend.close()
    if as_json:
        about = {"ok": True, "task": what, "model": target.model, "backend": target.backend.kind}
        print_json({**about, "outputs": made, "elapsed_s": round(time.monotonic() - start, 3)})


def infer_task(target: Target, params: Mapping[str, Any], backend: VisionBackend | None = None) -> Task:
    """Choose the first task that takes what is given, of those that the model has by its card, else by its backend."""
    moves = "num_frames" in params or "fps" in params
    image_first: list[Task] = ["image_to_image", "image_to_video", "multi_view_image"]
    text_first: list[Task] = ["text_to_image", "text_to_video", "multi_view_image"]
    tasks = image_first if "image" in params else text_first
    if moves:
        tasks = [one for one in tasks if one.endswith("video")]
    able: Container[str] | None = None if target.card is None else target.card.tasks
    if able is None and backend is not None and (capabilities := backend.get_capabilities()):
        able = capabilities.supported_tasks
    has = [one for one in tasks if able is None or one in able]
    return (has or tasks)[0]


def choose_seed(target: Target, seed: int | None, number: int) -> dict[str, int]:
    """Return the seed of the `number`th request; a server without one chooses for itself."""
    if seed is not None:
        return {"seed": seed + number}
    return {} if target.backend.server_url is not None else {"seed": secrets.randbelow(MAX_DRAWN_SEED)}


def step_printer() -> Any:
    """Return what shows steps on a terminal's stderr; None where there is no terminal."""
    if not sys.stderr.isatty():
        return None

    def show(step: int, total: int | None) -> None:
        end = "\r\x1b[K" if step == total else ""
        sys.stderr.write(f"\rstep {step}{f'/{total}' if total else ''}{end}")
        sys.stderr.flush()

    return show


def _line(found: dict[str, Any]) -> str:
    return json.dumps(found["artifact"]) if "artifact" in found else str(found["path"])
