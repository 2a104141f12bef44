from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from abstractvision_batch.backends import ProceduralBackendConfig, ProceduralVisionBackend
from abstractvision_batch.backends.procedural.drawing import Picture, draw
from abstractvision_batch.errors import GenerationCancelledError, GenerationError, SpecError
from abstractvision_batch.media.images import decode_image, encode_image, pixel_sha256, to_rgb_array
from abstractvision_batch.media.video import decode_video
from abstractvision_batch.types import (
    GeneratedAsset,
    ImageEditRequest,
    ImageGenerationRequest,
    ImageToVideoRequest,
    MultiAngleRequest,
    VisionRequest,
)
from tests.support.journal import read_journal


def prompts(*texts: str) -> list[VisionRequest]:
    return [ImageGenerationRequest(text, width=32, height=32, seed=1, steps=4) for text in texts]


def white(width: int = 32, height: int = 32) -> bytes:
    return encode_image(Image.new("RGB", (width, height), "white"), "png")


def test_the_picture_of_a_request_is_the_same_on_every_machine() -> None:
    assert pixel_sha256(Image.fromarray(draw(Picture("a fox", 7), 48, 32))) == (
        "282b7dadedc349edd4fcec14acf066d0accc13f1c38fc5a6323fc13a6749a8fa"
    )


def test_the_batch_size_does_not_change_a_pixel() -> None:
    backend = ProceduralVisionBackend()
    requests = prompts("a", "b", "c")

    together = backend.generate_batch(requests)
    alone = [backend.generate_batch([request])[0] for request in requests]

    assert together == alone


@pytest.mark.parametrize(
    "other",
    [
        Picture("b", 1),
        Picture("a", 2),
        Picture("a", 1, negative_prompt="b"),
        Picture("a", 1, steps=2),
        Picture("a", 1, guidance_scale=1.0),
        Picture("a", 1, view="back"),
    ],
)
def test_everything_that_a_request_says_shows_in_its_picture(other: Picture) -> None:
    assert not np.array_equal(draw(other, 64, 64), draw(Picture("a", 1), 64, 64))


def test_a_picture_is_not_flat() -> None:
    for seed in range(20):
        picture = draw(Picture(f"prompt {seed}", seed), 64, 64)
        assert picture.std() > 8
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 100


def test_a_matching_prompt_fails_and_its_neighbours_do_not() -> None:
    backend = ProceduralVisionBackend(ProceduralBackendConfig(fail_when="^bad"))

    items = backend.generate_batch(prompts("good", "bad one", "also good"))

    assert [isinstance(item, GeneratedAsset) for item in items] == [True, False, True]
    assert isinstance(items[1], GenerationError)
    assert "fail_when '^bad'" in str(items[1])


def test_a_crash_on_demand_ends_the_process_without_a_word() -> None:
    code = (
        "from abstractvision_batch.backends import ProceduralBackendConfig, ProceduralVisionBackend\n"
        "from abstractvision_batch.types import ImageGenerationRequest\n"
        "ProceduralVisionBackend(ProceduralBackendConfig(crash_when='boom')).generate_image(ImageGenerationRequest('boom'))"
    )

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=60)

    assert (ended.returncode, ended.stdout, ended.stderr) == (134, b"", b"")


def test_the_journal_has_a_line_of_each_request_that_was_begun_also_of_the_one_that_crashed(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    code = (
        "from abstractvision_batch.backends import ProceduralBackendConfig, ProceduralVisionBackend\n"
        "from abstractvision_batch.types import ImageGenerationRequest as Request\n"
        f"config = ProceduralBackendConfig(crash_when='boom', journal_path={str(journal)!r})\n"
        "requests = [Request('a', seed=1), Request('boom', seed=2), Request('b', seed=3)]\n"
        "ProceduralVisionBackend(config).generate_batch(requests)"
    )

    subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    ProceduralVisionBackend(ProceduralBackendConfig(journal_path=str(journal))).generate_batch(prompts("c"))

    begun = read_journal(journal)
    assert [entry.seed for entry in begun[:2]] == [1, 2]
    assert len(begun) == 3
    assert begun[0].pid == begun[1].pid != begun[2].pid == os.getpid()


def test_a_bad_pattern_is_refused_before_anything_is_drawn() -> None:
    with pytest.raises(SpecError, match=r"backend\.fail_when: '\(' is not a regular expression"):
        ProceduralVisionBackend(ProceduralBackendConfig(fail_when="("))


def test_a_long_delay_ends_soon_after_it_is_cancelled() -> None:
    backend = ProceduralVisionBackend(ProceduralBackendConfig(delay_s=30))
    started = time.monotonic()

    items = backend.generate_batch(prompts("a", "b"), cancelled=lambda: time.monotonic() - started > 0.1)

    assert [type(item) for item in items] == [GenerationCancelledError] * 2
    assert time.monotonic() - started < 5


def test_the_delay_is_spread_over_the_steps() -> None:
    backend = ProceduralVisionBackend(ProceduralBackendConfig(delay_s=0.4))
    times: list[float] = []

    backend.generate_image_with_progress(
        ImageGenerationRequest("a", width=8, height=8, steps=4), lambda step, total: times.append(time.monotonic())
    )

    assert len(times) == 4
    assert 0.25 < times[-1] - times[0] < 3


def test_strength_zero_gives_the_input_image_back() -> None:
    asset = ProceduralVisionBackend().edit_image(ImageEditRequest("a", image=white(), strength=0.0, seed=1))

    assert pixel_sha256(decode_image(asset.data)) == pixel_sha256(decode_image(white()))


def test_only_white_mask_pixels_change() -> None:
    mask = Image.new("L", (32, 32), 0)
    mask.paste(255, (0, 0, 16, 32))

    asset = ProceduralVisionBackend().edit_image(
        ImageEditRequest("a", image=white(), mask=encode_image(mask, "png"), strength=1.0, seed=1)
    )

    result = to_rgb_array(decode_image(asset.data))
    assert (result[:, 16:] == 255).all()
    assert (result[:, :16] < 250).any()


def test_an_edit_is_as_large_as_asked() -> None:
    asset = ProceduralVisionBackend().edit_image(ImageEditRequest("a", image=white(), width=20, height=12))

    assert decode_image(asset.data).size == (20, 12)


def test_each_angle_gets_its_own_view_in_order() -> None:
    views = ProceduralVisionBackend().generate_angles(MultiAngleRequest("a", angles=("front", "left", "back"), seed=1))

    assert [view.metadata["angle"] for view in views] == ["front", "left", "back"]
    assert len({view.data for view in views}) == 3


def test_a_video_starts_from_its_image_and_moves() -> None:
    pytest.importorskip("av")
    asset = ProceduralVisionBackend().image_to_video(
        ImageToVideoRequest(white(64, 32), "a", num_frames=6, fps=6, seed=1)
    )

    frames = [frame.astype(int) for frame in decode_video(asset.data)]
    assert frames[0].min() > 245
    assert np.abs(frames[5] - frames[0]).mean() > 10


def test_further_pictures_stand_in_their_order_along_the_lower_edge() -> None:
    red, blue = (encode_image(Image.new("RGB", (8, 8), colour), "png") for colour in ("red", "blue"))
    backend = ProceduralVisionBackend()

    drawn = decode_image(backend.generate_image(ImageGenerationRequest("a", width=64, height=64, control=(blue,))).data)
    edited = decode_image(backend.edit_image(ImageEditRequest("a", red, images=(red, blue), control=(red,))).data)

    assert drawn.getpixel((4, 60)) == (0, 0, 255)
    assert [edited.getpixel((x, 7)) for x in (0, 2, 4)] == [(255, 0, 0), (0, 0, 255), (255, 0, 0)]


def test_a_video_ends_with_its_last_image() -> None:
    red, blue = (encode_image(Image.new("RGB", (32, 32), colour), "png") for colour in ("red", "blue"))

    video = ProceduralVisionBackend().image_to_video(ImageToVideoRequest(red, num_frames=9, last_image=blue))

    first, *_, last = (np.asarray(frame).mean((0, 1)) for frame in decode_video(video.data))
    assert first[0] > 200 > 60 > first[2]
    assert last[2] > 200 > 60 > last[0]
