from __future__ import annotations

import io

import pytest
from PIL import Image

from abstractvision_batch.errors import InvalidOutputError
from abstractvision_batch.media.probe import MediaInfo, probe, sniff_mime_type


def encoded(format: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (12, 5), "blue").save(out, format)
    return out.getvalue()


@pytest.mark.parametrize(
    ("format", "mime_type"),
    [
        ("PNG", "image/png"),
        ("JPEG", "image/jpeg"),
        ("WEBP", "image/webp"),
        ("GIF", "image/gif"),
        ("PPM", "image/x-portable-pixmap"),
    ],
)
def test_images_are_told_by_content_and_measured(format: str, mime_type: str) -> None:
    data = encoded(format)

    assert sniff_mime_type(data) == mime_type
    assert probe(data, mime_type) == MediaInfo(12, 5, 1, None)


@pytest.mark.parametrize("data", [b"", b"{}", b"<html>", b"RIFF1234WAVE"])
def test_other_bytes_have_no_mime_type(data: bytes) -> None:
    assert sniff_mime_type(data) is None


def test_probing_garbage_is_an_invalid_output() -> None:
    with pytest.raises(InvalidOutputError, match="image/png: 7 bytes"):
        probe(b"garbage", "image/png")
