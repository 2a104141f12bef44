"""How far two pictures or videos are apart: equal, close to the eye, or different, with figures.

SSIM is scikit-image's; the perceptual hash is pHash (DCT, 64 bit) of ImageHash. Both packages are the extra `compare`;
equal pixels are found without them.

Not covered: which artifacts belong together (`diff`, `verify`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

import numpy as np
from PIL import Image

from abstractvision_batch.errors import GenerationError, OptionalDependencyMissingError
from abstractvision_batch.media.images import Rgb, decode_image, to_rgb_array
from abstractvision_batch.media.video import decode_video

Verdict = Literal["identical", "close", "different"]

#: What the eye hardly tells apart. Kernels of another GPU or batch size stay above; another seed or prompt does not.
CLOSE_SSIM = 0.95
CLOSE_PSNR_DB = 30.0
#: The side of scikit-image's SSIM window; smaller pictures are compared by PSNR alone.
SSIM_WINDOW = 7


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two artifacts beside each other. Of a video the figures are those of its worst frame."""

    verdict: Verdict
    max_difference: int | None = None
    """Largest difference of one channel of one pixel, 0 to 255; None where the sizes differ."""
    changed_pixels: float | None = None
    """Share of pixels that differ at all, 0 to 1."""
    psnr_db: float | None = None
    """Peak signal-to-noise ratio in dB; None for equal pixels, where it is infinite."""
    ssim: float | None = None
    """Mean structural similarity, 1 for equal pictures (Wang et al. 2004)."""
    phash_distance: int | None = None
    """Bits of 64 in which the perceptual hashes differ."""
    note: str | None = None
    """What the figures cannot say, such as another size."""

    def describe(self) -> str:
        """The figures, on one line."""
        if self.note is not None:
            return self.note
        if self.verdict == "identical":
            return "identical"
        figures = [self.verdict, f"PSNR {self.psnr_db:.1f} dB"]
        if self.ssim is not None:
            figures.append(f"SSIM {self.ssim:.4f}")
        figures.append(f"largest difference {self.max_difference}")
        if self.changed_pixels is not None:
            figures.append(f"{100 * self.changed_pixels:.3g} % of the pixels")
        if self.phash_distance is not None:
            figures.append(f"pHash {self.phash_distance} of 64 bits")
        return ", ".join(figures)


IDENTICAL = Comparison("identical", 0, 0.0, None, 1.0, 0)


def compare_artifacts(there: bytes, here: bytes, content_type: str) -> Comparison:
    """Compare two encoded images or videos by their decoded pixels.

    Raises:
        GenerationError: one of them cannot be decoded.
        OptionalDependencyMissingError: they differ, and the extra `compare` is not installed.
    """
    if content_type.startswith("video/"):
        return _compare_frames(decode_video(there), decode_video(here))
    return compare_pixels(to_rgb_array(decode_image(there)), to_rgb_array(decode_image(here)))


def is_decodable(data: bytes, content_type: str) -> bool:
    """Whether an encoded image, or the whole of a video, can be decoded."""
    try:
        if content_type.startswith("video/"):
            for _ in decode_video(data):
                pass
        else:
            decode_image(data)
    except GenerationError:
        return False
    return True


def compare_pixels(there: Rgb, here: Rgb) -> Comparison:
    """Compare two (height, width, 3) uint8 pictures.

    Raises:
        OptionalDependencyMissingError: they differ, and the extra `compare` is not installed.
    """
    if there.shape != here.shape:
        sizes = " and ".join(f"{pixels.shape[1]}×{pixels.shape[0]}" for pixels in (there, here))
        return Comparison("different", note=f"the sizes are {sizes}", phash_distance=_phash_distance(there, here))
    difference = np.abs(there.astype(np.int16) - here.astype(np.int16))
    if not difference.any():
        return IDENTICAL
    metrics, _ = _libraries()
    ratio_db, ssim = psnr_db(there, here), None
    if min(there.shape[:2]) >= SSIM_WINDOW:
        ssim = float(metrics.structural_similarity(there, here, channel_axis=2, data_range=255, win_size=SSIM_WINDOW))
    close = ratio_db >= CLOSE_PSNR_DB and (ssim is None or ssim >= CLOSE_SSIM)
    return Comparison(
        verdict="close" if close else "different",
        max_difference=int(difference.max()),
        changed_pixels=float(difference.any(axis=2).mean()),
        psnr_db=ratio_db,
        ssim=ssim,
        phash_distance=_phash_distance(there, here),
    )


def psnr_db(there: Rgb, here: Rgb) -> float:
    """Peak signal-to-noise ratio of two pictures of one size in dB; infinite for equal ones."""
    mean_square = float(np.mean((there.astype(np.float64) - here.astype(np.float64)) ** 2))
    return math.inf if mean_square == 0 else 10 * math.log10(255**2 / mean_square)


def worst(comparisons: Iterable[Comparison]) -> Comparison:
    """The one of the greatest difference; IDENTICAL where there are none."""
    return max(comparisons, key=_rank, default=IDENTICAL)


def _compare_frames(there: Iterator[Rgb], here: Iterator[Rgb]) -> Comparison:
    found = IDENTICAL
    for number, (one, other) in enumerate(zip_longest(there, here)):
        if one is None or other is None:
            return Comparison("different", note=f"one video ends after {number} frames")
        found = worst((found, compare_pixels(one, other)))
    return found


def _rank(comparison: Comparison) -> tuple[int, float]:
    order = {"identical": 0, "close": 1, "different": 2}[comparison.verdict]
    return order, -(math.inf if comparison.psnr_db is None else comparison.psnr_db)


def _phash_distance(there: Rgb, here: Rgb) -> int:
    _, imagehash = _libraries()
    return int(imagehash.phash(Image.fromarray(there)) - imagehash.phash(Image.fromarray(here)))


def _libraries() -> tuple[Any, Any]:
    try:
        import imagehash
        from skimage import metrics
    except ImportError as exc:
        raise OptionalDependencyMissingError(
            f'comparing pictures that differ needs {exc.name} (run: pip install "abstractvision_batch[compare]")'
        ) from exc
    return metrics, imagehash
