"""Prints how often the model does what it is told, by the rules in `classify`.

    python -m training.shapes64.evaluate --model abstractvision_batch/models/shapes64

Three measures, all of combinations that were kept out of training, with the stock pipelines on the CPU:

- text to image: the share of images that are right in each part and in all; also on combinations trained on;
- image to image: a drawn scene goes in, and the prompt asks for another colour and leaves size and background open, so
  that they can only come from the image; the share that comes out right, size and background included;
- inpainting: the square around the object of a drawn scene is masked, the prompt asks for another shape and colour
  there; the share that comes out right, and how much the pixels outside the mask changed.

*Not covered:* beauty, diversity, and anything that the grammar cannot say.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline
from numpy.typing import NDArray
from PIL import Image

from training.shapes64.classify import Pixels, judge, shares
from training.shapes64.grammar import HELD_OUT, IMAGE_SIDE, SIZES, TRAINED, Combination, prompt_for
from training.shapes64.render import draw_scene, render_scenes

FIRST_SEED = 5000
MASK_MARGIN = 4.0  # pixels between the largest object and the edge of the mask
SHEET_COLUMNS = 8


@dataclass(frozen=True, slots=True)
class Settings:
    """What a user of the model can choose."""

    steps: int = 20
    guidance: float = 2.5
    strength: float = 0.7
    batch: int = 32


class Evaluation:
    """The three stock pipelines of one model folder, over shared weights."""

    def __init__(self, model: Path, settings: Settings) -> None:
        """Load the folder, which comes out in float32, without looking for anything on the hub."""
        self.settings = settings
        self._text = StableDiffusionPipeline.from_pretrained(model, local_files_only=True)
        self._image = StableDiffusionImg2ImgPipeline(**self._text.components, requires_safety_checker=False)
        self._inpaint = StableDiffusionInpaintPipeline(**self._text.components, requires_safety_checker=False)
        for pipeline in (self._text, self._image, self._inpaint):
            pipeline.set_progress_bar_config(disable=True)

    def _run(self, pipeline: object, prompts: Sequence[str], **inputs: Sequence[Image.Image]) -> list[Pixels]:
        images: list[Pixels] = []
        for start in range(0, len(prompts), self.settings.batch):
            part = slice(start, start + self.settings.batch)
            seeds = range(FIRST_SEED + start, FIRST_SEED + start + len(prompts[part]))
            options: dict[str, object] = {name: list(values[part]) for name, values in inputs.items()}
            if pipeline is not self._text:
                options["strength"] = self.settings.strength if pipeline is self._image else 1.0
            output = pipeline(  # type: ignore[operator]
                list(prompts[part]),
                num_inference_steps=self.settings.steps,
                guidance_scale=self.settings.guidance,
                generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
                **options,
            )
            images += [np.asarray(image, dtype=np.uint8) for image in output.images]
        return images

    def draw(self, prompts: Sequence[str]) -> list[Pixels]:
        """Text to image, with one fixed seed per position in the list."""
        return self._run(self._text, prompts)

    def redraw(self, prompts: Sequence[str], given: Sequence[Pixels]) -> list[Pixels]:
        """Image to image."""
        return self._run(self._image, prompts, image=[Image.fromarray(pixels) for pixels in given])

    def inpaint(
        self, prompts: Sequence[str], given: Sequence[Pixels], masks: Sequence[NDArray[np.bool_]]
    ) -> list[Pixels]:
        """Inpainting where the masks are true, at full strength."""
        return self._run(
            self._inpaint,
            prompts,
            image=[Image.fromarray(pixels) for pixels in given],
            mask_image=[Image.fromarray(mask.astype(np.uint8) * 255) for mask in masks],
        )


def paint(combinations: Sequence[Combination], seed: int = 0) -> list[Pixels]:
    """Drawn scenes, not generated ones: `(64, 64, 3)` uint8 each."""
    rng = random.Random(seed)
    images = render_scenes([draw_scene(combination, rng) for combination in combinations])
    rounded = ((images + 1) * 127.5).round().to(torch.uint8)
    return [image.permute(1, 2, 0).numpy() for image in rounded]


def change(asked: Sequence[Combination], parts: Sequence[str], seed: int = 0) -> list[Combination]:
    """For each combination, one that differs in exactly the named parts: what the input of an edit shows."""
    rng = random.Random(seed)
    values = {part: sorted({str(getattr(combination, part)) for combination in TRAINED}) for part in parts}
    return [
        replace(
            combination,
            **{part: rng.choice([v for v in values[part] if v != getattr(combination, part)]) for part in parts},
        )
        for combination in asked
    ]


def square_mask(combination: Combination) -> NDArray[np.bool_]:
    """A square around the place of an object, wide enough for any object of its size."""
    x, y = combination.centre
    reach = SIZES[combination.size][1] + MASK_MARGIN
    middle = np.arange(IMAGE_SIDE) + 0.5
    mask: NDArray[np.bool_] = (abs(middle - x)[None, :] < reach) & (abs(middle - y)[:, None] < reach)
    return mask


def measure_drawing(evaluation: Evaluation, asked: Sequence[Combination]) -> tuple[dict[str, float], list[Pixels]]:
    """Text to image: the shares, and the images for a look."""
    images = evaluation.draw([prompt_for(combination) for combination in asked])
    return shares(judge(images, asked)), images


def measure_recolouring(evaluation: Evaluation, asked: Sequence[Combination]) -> tuple[dict[str, float], list[Pixels]]:
    """Image to image: the shares that are right, of prompts that leave open what the image shows."""
    prompts = [prompt_for(combination, say_size=False, say_background=False) for combination in asked]
    images = evaluation.redraw(prompts, paint(change(asked, ["colour"])))
    return shares(judge(images, asked)), images


def measure_inpainting(evaluation: Evaluation, asked: Sequence[Combination]) -> tuple[dict[str, float], list[Pixels]]:
    """Inpainting: share right, and mean change outside the masks in levels of 0 to 255."""
    given = paint(change(asked, ["shape", "colour"]))
    masks = [square_mask(combination) for combination in asked]
    images = evaluation.inpaint([prompt_for(combination) for combination in asked], given, masks)
    outside = [
        np.abs(after.astype(int) - before)[~mask].mean()
        for before, after, mask in zip(given, images, masks, strict=True)
    ]
    return shares(judge(images, asked)) | {"change_outside": float(np.mean(outside))}, images


MEASURES = {
    "held_out": (measure_drawing, HELD_OUT),
    "trained": (measure_drawing, TRAINED),
    "image_to_image": (measure_recolouring, HELD_OUT),
    "inpainting": (measure_inpainting, HELD_OUT),
}


def save_sheet(images: Sequence[Pixels], path: Path) -> None:
    """Save images as one PNG, eight per row, at twice their size."""
    rows = -(-len(images) // SHEET_COLUMNS)
    side = IMAGE_SIDE + 2
    sheet = np.full((rows * side, SHEET_COLUMNS * side, 3), 90, dtype=np.uint8)
    for index, image in enumerate(images):
        top, left = index // SHEET_COLUMNS * side + 1, index % SHEET_COLUMNS * side + 1
        sheet[top : top + IMAGE_SIDE, left : left + IMAGE_SIDE] = image
    whole = Image.fromarray(sheet)
    whole.resize((2 * whole.width, 2 * whole.height), Image.Resampling.NEAREST).save(path)


def main() -> None:
    """Command line."""
    defaults = Settings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--n", type=int, default=128, help="prompts per measure (at most 228 are held out)")
    parser.add_argument("--steps", type=int, default=defaults.steps)
    parser.add_argument("--guidance", type=float, default=defaults.guidance)
    parser.add_argument("--strength", type=float, default=defaults.strength, help="of image to image")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", action="append", choices=MEASURES, help="one measure; may be given again")
    parser.add_argument("--sheet", type=Path, help="saves the first 64 images of each measure as SHEET.MEASURE.png")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    settings = Settings(steps=options.steps, guidance=options.guidance, strength=options.strength)
    evaluation = Evaluation(options.model, settings)
    report: dict[str, Mapping[str, float]] = {"settings": asdict(settings)}
    for name, (measure, combinations) in MEASURES.items():
        if options.only and name not in options.only:
            continue
        start, asked = time.process_time(), combinations[: options.n]
        figures, images = measure(evaluation, asked)
        seconds = (time.process_time() - start) / len(asked)
        report[name] = {"n": len(asked), **figures, "cpu_seconds_per_image": seconds}
        if options.sheet:
            save_sheet(images[:64], options.sheet.with_suffix(f".{name}.png"))
        if not options.json:
            print(f"{name} (n={len(asked)}, {settings.steps} steps, guidance {settings.guidance:g})", flush=True)
            for part, value in figures.items():
                shown = f"{value:.2f} levels of 255" if part == "change_outside" else f"{100 * value:.1f} %"
                print(f"  {part:<15} {shown}", flush=True)
            print(f"  {'CPU seconds':<15} {seconds:.2f} per image, measuring included", flush=True)
    if options.json:
        print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
