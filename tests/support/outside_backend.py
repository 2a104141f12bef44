"""A backend of another distribution: its own wheel, installed by pip where only child processes find it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

REPOSITORY = Path(__file__).parents[2]

#: The files of the page for authors of backends, by path.
PAGE: dict[str, str] = dict(
    re.findall(
        r"^`([\w./]+)`.*?\n\n```\w+\n(.*?)```$", (REPOSITORY / "docs/backends.md").read_text("utf-8"), re.M | re.S
    )
)


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
    _pip_install(wheel, target)


def _pip_install(wheel: Path, target: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--no-compile", "--quiet"]
    subprocess.run(
        [*pip, "--disable-pip-version-check", "--target", str(target), str(wheel)], check=True, capture_output=True
    )


def install_acme(target: Path, replaced: tuple[str, str] = ("", "")) -> None:
    """Build the package of the page as pip does, with a text of its fields replaced, and install it into a folder."""
    project = target.parent / f"{target.name}-project"
    for path, text in PAGE.items():
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_text(text.replace(*replaced) if path.endswith("fields.py") else text)
    code = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    built = subprocess.run(
        [sys.executable, "-c", code, str(project)], cwd=project, capture_output=True, text=True, check=True
    )
    _pip_install(project / built.stdout.split()[-1], target)
