from __future__ import annotations

import numpy as np
import pytest

from abstractvision_batch.errors import GenerationError, InvalidOutputError
from abstractvision_batch.media.images import Rgb
from abstractvision_batch.media.probe import probe, sniff_mime_type
from abstractvision_batch.media.video import decode_video, encode_video, video_pixel_sha256

pytest.importorskip("av")


def make_frames(count: int = 9, width: int = 48, height: int = 32) -> list[Rgb]:
    ramp = np.arange(width, dtype=np.int64)[None, :, None] + np.arange(height, dtype=np.int64)[:, None, None]
    return [np.repeat((ramp * 2 + 9 * index) % 256, 3, axis=2).astype(np.uint8) for index in range(count)]


def test_frames_fps_and_size_survive_encoding() -> None:
    info = probe(encode_video(make_frames(9), fps=3), "video/mp4")

    assert (info.width, info.height, info.frames) == (48, 32, 9)
    assert info.duration_s == pytest.approx(3.0)


def test_an_odd_size_is_kept() -> None:
    info = probe(encode_video(make_frames(2, width=33, height=17), fps=8), "video/mp4")

    assert (info.width, info.height) == (33, 17)


def test_the_same_frames_give_the_same_bytes_and_pixel_hash() -> None:
    first, second = (encode_video(make_frames(), fps=8) for _ in range(2))

    assert first == second
    assert sniff_mime_type(first) == "video/mp4"
    assert video_pixel_sha256(first) == video_pixel_sha256(second)


def test_other_frames_have_another_pixel_hash() -> None:
    reversed_frames = encode_video(make_frames()[::-1], fps=8)

    assert video_pixel_sha256(reversed_frames) != video_pixel_sha256(encode_video(make_frames(), fps=8))


def test_decoded_frames_look_like_the_encoded_ones() -> None:
    flat = [np.full((32, 48, 3), (200, 40, 90), np.uint8)] * 3

    decoded = list(decode_video(encode_video(flat, fps=8)))

    assert len(decoded) == 3
    assert np.abs(decoded[1].astype(int) - flat[1]).max() <= 4


@pytest.mark.parametrize("length", [0, 40, 600])
def test_a_truncated_video_is_an_invalid_output(length: int) -> None:
    data = encode_video(make_frames(), fps=8)[:length]

    with pytest.raises(InvalidOutputError, match="not a readable video"):
        probe(data, "video/mp4")
    with pytest.raises(InvalidOutputError, match="not a readable video"):
        list(decode_video(data))


def test_frames_that_differ_in_size_are_refused() -> None:
    with pytest.raises(GenerationError, match="differ in size"):
        encode_video([*make_frames(1), *make_frames(1, width=16)], fps=8)
    with pytest.raises(GenerationError, match="0 frames"):
        encode_video([], fps=8)
