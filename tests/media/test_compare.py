"""How two pictures or videos are told apart."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from abstractvision_batch.media.compare import compare_artifacts, compare_pixels
from abstractvision_batch.media.images import Rgb, encode_image
from abstractvision_batch.media.video import encode_video


def _picture(seed: int = 0, side: int = 64) -> Rgb:
    """Soft blobs: a picture with structure, as noise has none that could be kept."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))


def test_equal_pixels_are_identical_in_any_lossless_codec() -> None:
    image = Image.fromarray(_picture())

    found = compare_artifacts(encode_image(image, "png"), encode_image(image, "webp"), "image/png")

    assert (found.verdict, found.max_difference, found.ssim, found.phash_distance) == ("identical", 0, 1.0, 0)


def test_a_level_of_rounding_is_close_and_says_how_far() -> None:
    there = _picture()
    here = there.copy()
    here[3, 5, 0] ^= 1

    found = compare_pixels(there, here)

    assert found.verdict == "close"
    assert found.max_difference == 1
    assert found.changed_pixels == pytest.approx(1 / 64**2)
    assert found.psnr_db is not None
    assert found.psnr_db == pytest.approx(10 * np.log10(255**2 * 64 * 64 * 3))


def test_another_picture_is_different() -> None:
    found = compare_pixels(_picture(1), _picture(2))

    assert found.verdict == "different"
    assert found.ssim is not None
    assert found.ssim < 0.9
    assert found.phash_distance is not None
    assert found.phash_distance > 5


def test_another_size_is_different_and_says_both() -> None:
    found = compare_pixels(_picture(side=64), _picture(side=32))

    assert (found.verdict, found.note) == ("different", "the sizes are 64×64 and 32×32")


def test_a_picture_too_small_for_a_window_is_compared_all_the_same() -> None:
    there = np.zeros((4, 4, 3), np.uint8)

    assert compare_pixels(there, there + 200).verdict == "different"


def test_of_a_video_the_worst_frame_counts() -> None:
    frames = [_picture(seed) for seed in range(3)]
    changed = [frames[0], frames[2], frames[2]]

    there, here = encode_video(frames, fps=4), encode_video(changed, fps=4)

    assert compare_artifacts(there, there, "video/mp4").verdict == "identical"
    assert compare_artifacts(there, here, "video/mp4").verdict == "different"


def test_a_video_that_ends_early_is_different() -> None:
    frames = [_picture(seed) for seed in range(3)]

    found = compare_artifacts(encode_video(frames, fps=4), encode_video(frames[:2], fps=4), "video/mp4")

    assert found.verdict == "different"
