"""A backend of another distribution: its own wheel, installed by pip where only child processes find it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]

FIELDS = """
from typing import Annotated, Literal

from pydantic import Field

from abstractvision_batch.job.backend_section import BackendSection


class AcmeSection(BackendSection):
    kind: Literal["acme"] = "acme"
    hue: Annotated[int, Field(ge=0, le=359)] = 0
    '''Of every picture, in degrees.'''
"""

BACKEND = """
import colorsys, io

from PIL import Image

from abstractvision_batch.backends import VisionBackend
from abstractvision_batch.errors import CapabilityNotSupportedError
from abstractvision_batch.types import GeneratedAsset


class AcmeBackend(VisionBackend):
    def __init__(self, hue=0):
        self.hue = hue

    @classmethod
    def from_fields(cls, fields, *, card_facts, model):
        return cls(**fields)

    def generate_image(self, request):
        red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(self.hue / 360, 1, 1))
        stream = io.BytesIO()
        Image.new("RGB", (request.width, request.height), (red, green, blue)).save(stream, "PNG")
        return GeneratedAsset("image", stream.getvalue(), "image/png", {})

    def _refuse(self, request):
        raise CapabilityNotSupportedError("acme: only text_to_image")

    edit_image = generate_angles = generate_video = image_to_video = _refuse
"""


def install(target: Path, name: str, modules: Mapping[str, str], entry_points: str) -> None:
    """Build a wheel of version 1.0 with these modules and entry points, and have pip install it into a folder."""
    target.mkdir(parents=True, exist_ok=True)
    stem = f"{name.replace('-', '_')}-1.0"
    wheel = target.parent / f"{stem}-py3-none-any.whl"
    files = {f"{module}.py": text for module, text in modules.items()}
    files[f"{stem}.dist-info/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    files[f"{stem}.dist-info/WHEEL"] = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{stem}.dist-info/entry_points.txt"] = entry_points
    record = f"{stem}.dist-info/RECORD"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(record, "".join(f"{path},,\n" for path in (*files, record)))
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--no-compile", "--quiet"]
    subprocess.run(
        [*pip, "--disable-pip-version-check", "--target", str(target), str(wheel)], check=True, capture_output=True
    )


def environment_with(*targets: Path) -> dict[str, str]:
    """Return the environment of a child process that finds what is installed in these folders."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY, *targets)))}


def install_acme(target: Path) -> None:
    """Install a backend with a section of its own."""
    points = (
        "[abstractvision_batch.backends]\nacme = acme_backend:AcmeBackend\n"
        "[abstractvision_batch.sections]\nacme = acme_fields:AcmeSection\n"
    )
    install(target, "acme-vision", {"acme_backend": BACKEND, "acme_fields": FIELDS}, points)
