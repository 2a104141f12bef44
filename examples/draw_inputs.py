"""Draw the input images and the mask of the image-to-image and inpainting specs, in the style of the embedded model.

python examples/draw_inputs.py
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

FOLDER = Path(__file__).parent / "images"
SIDE = 64  # pixels
SUPERSAMPLING = 8

Point = tuple[float, float]

WHITE, BLACK, GREY = (245, 245, 245), (12, 12, 12), (128, 128, 128)


def polygon(points: list[Point]) -> list[Point]:
    """Corners given from the centre of the picture, -1 to 1, as pixels of the large canvas."""
    half = SIDE * SUPERSAMPLING / 2
    return [(half + x * half, half + y * half) for x, y in points]


SHAPES = {
    "square": [(-0.45, -0.45), (0.45, -0.45), (0.45, 0.45), (-0.45, 0.45)],
    "triangle": [(0.0, -0.5), (0.53, 0.4), (-0.53, 0.4)],
    "cross": [
        (-0.19, -0.52), (0.19, -0.52), (0.19, -0.19), (0.52, -0.19), (0.52, 0.19), (0.19, 0.19),
        (0.19, 0.52), (-0.19, 0.52), (-0.19, 0.19), (-0.52, 0.19), (-0.52, -0.19), (-0.19, -0.19),
    ],
}  # fmt: skip


def draw(shape: str, colour: tuple[int, int, int], background: tuple[int, int, int]) -> Image.Image:
    large = Image.new("RGB", (SIDE * SUPERSAMPLING,) * 2, background)
    canvas = ImageDraw.Draw(large)
    if shape == "circle":
        canvas.ellipse(polygon([(-0.52, -0.52), (0.52, 0.52)]), colour)
    else:
        canvas.polygon(polygon(SHAPES[shape]), colour)
    return large.resize((SIDE, SIDE), Image.Resampling.BOX)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    draw("circle", (220, 35, 35), WHITE).save(FOLDER / "red-circle.png")
    draw("square", (50, 215, 230), BLACK).save(FOLDER / "cyan-square.png")
    draw("triangle", (40, 165, 60), GREY).save(FOLDER / "green-triangle.png")
    draw("cross", (250, 220, 40), BLACK).save(FOLDER / "yellow-cross.png")
    mask = Image.new("L", (SIDE, SIDE), 0)  # white pixels change
    mask.paste(255, (10, 10, SIDE - 10, SIDE - 10))
    mask.save(FOLDER / "mask-middle.png")


if __name__ == "__main__":
    main()
