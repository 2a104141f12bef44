"""A backend of another distribution: its own wheel, installed by pip where only child processes find it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

REPOSITORY = Path(__file__).parents[2]

FIELDS = """
from typing import Annotated, Literal

from pydantic import Field

from abstractvision_batch.documents.strict_model import Text
from abstractvision_batch.job.backend_section import BackendSection
from abstractvision_batch.job.marks import Identity, LocalPath, Runtime


class AcmeSection(BackendSection):
    kind: Literal["acme"] = "acme"
    hue: Identity[Annotated[int, Field(ge=0, le=359)]] = 0
    '''Of every picture, in degrees.'''
    refused: Runtime[str] = ""
    '''A prompt that fails.'''
    palette: Identity[Annotated[Text, LocalPath()] | None] = None
    '''File of colours.'''
"""

BACKEND = """
import colorsys, io

from PIL import Image

from abstractvision_batch.backends import VisionBackend
from abstractvision_batch.errors import CapabilityNotSupportedError, GenerationError
from abstractvision_batch.types import GeneratedAsset


class AcmeBackend(VisionBackend):
    def __init__(self, hue=0, refused="", palette=None):
        self.hue, self.refused, self.palette = hue, refused, palette

    @classmethod
    def from_fields(cls, fields, *, card_facts, model):
        return cls(**fields)

    def generate_image(self, request):
        if request.prompt == self.refused:
            raise GenerationError("acme: no such animal")
        red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(self.hue / 360, 1, 1))
        stream = io.BytesIO()
        Image.new("RGB", (request.width, request.height), (red, green, blue)).save(stream, "PNG")
        return GeneratedAsset("image", stream.getvalue(), "image/png", {})

    def _refuse(self, request):
        raise CapabilityNotSupportedError("acme: only text_to_image")

    edit_image = generate_angles = generate_video = image_to_video = _refuse
"""


#: Runs commands in one process, which costs a second once; their ends go to stdout as JSON.
_COMMANDS = """
import contextlib, io, json, sys
from abstractvision_batch.cli import main

ends = []
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words) or 0
        except SystemExit as end:
            code = end.code or 0
    ends.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(ends))
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Installation:
    """Python with what is installed in a few folders, in a folder of jobs."""

    folder: Path
    sites: tuple[Path, ...]

    def python(self, code: str, *words: str) -> str:
        """Run code in a process of its own and return what it printed."""
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY, *self.sites))),
            "XDG_STATE_HOME": str(self.folder / "state"),
        }
        command = [sys.executable, "-c", dedent(code), *words]
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=250, check=False
        )
        assert done.returncode == 0, done
        return done.stdout

    def avbatch(self, *commands: str) -> list[Ended]:
        """Run commands, each written as in a shell, one after the other in one process."""
        printed = self.python(_COMMANDS, json.dumps([shlex.split(command) for command in commands]))
        return [Ended(*end) for end in json.loads(printed.splitlines()[-1])]


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


def install_acme(target: Path, fields: str = FIELDS) -> None:
    """Install a backend with a section of its own."""
    points = (
        "[abstractvision_batch.backends]\nacme = acme_backend:AcmeBackend\n"
        "[abstractvision_batch.sections]\nacme = acme_fields:AcmeSection\n"
    )
    install(target, "acme-vision", {"acme_backend": BACKEND, "acme_fields": fields}, points)
