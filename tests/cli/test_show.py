"""`show`: what a file says of how it was made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import CliRunner

from abstractvision_batch.cli.app import app


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """As another tool wrote it."""
    info = PngInfo()
    info.add_text("parameters", "a fox\nin snow\nSteps: 4, Sampler: Euler a, Seed: 3, Size: 8x8")
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png", pnginfo=info)
    return tmp_path / "picture.png"


def test_a_parameter_is_a_line(picture: Path) -> None:
    result = CliRunner().invoke(app, ["show", str(picture)])

    assert result.exit_code == 0
    assert [line.split(maxsplit=1) for line in result.stdout.splitlines()] == [
        ["prompt", "a fox in snow"],
        ["steps", "4"],
        ["sampler", "Euler a"],
        ["seed", "3"],
        ["width", "8"],
        ["height", "8"],
    ]


def test_json_has_the_exact_words(picture: Path) -> None:
    result = CliRunner().invoke(app, ["show", str(picture), "--json"])

    assert json.loads(result.stdout)["parameters"]["prompt"] == "a fox\nin snow"


def test_a_file_that_says_nothing_prints_nothing(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.webp")

    result = CliRunner().invoke(app, ["show", str(tmp_path / "plain.webp")])

    assert (result.exit_code, result.stdout) == (0, "")


def test_a_file_that_cannot_be_read_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("a fox", encoding="utf-8")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00\xff\xffIHDR")

    for name, said in {
        "text.txt": "no image or video: only PNG, JPEG, WebP and MP4 can be read",
        "broken.png": "PNG: byte 8: a chunk ends beyond the file",
        "absent.png": "cannot be read: No such file or directory",
    }.items():
        result = CliRunner().invoke(app, ["show", str(tmp_path / name)])
        assert result.exit_code == 2
        assert result.stderr.splitlines()[0].endswith(f"{name}: {said}")
