"""Help is quick, loads nothing heavy, and stands in docs/cli.md as it is."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import abstractvision_batch
from abstractvision_batch.cli.app import app
from abstractvision_batch.cli.document import write_documents, write_reference

ROOT = Path(__file__).parents[2]
HELP_SECONDS = 0.3
#: A shared test machine may be this many times slower than one at rest.
SLACK = 3
HEAVY = ("torch", "ray", "pyarrow", "pydantic", "jinja2", "numpy", "PIL", "fsspec", "yaml", "rich.console")


def test_help_takes_less_than_a_moment() -> None:
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "abstractvision_batch", "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)

    assert min(seconds) < HELP_SECONDS * SLACK  # of a processor: what else the machine does is no matter


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    heavy = [name for name in HEAVY if name != "pydantic" or "run" not in arguments]  # Typer's own, for a command
    code = f"""
import sys
from abstractvision_batch.cli import main
try:
    main({arguments!r})
except SystemExit as end:
    assert end.code == 0, end.code
print("LOADED", *sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    loaded = done.stdout.rpartition("LOADED")[2].split()
    assert [name for name in heavy if name in loaded] == []


def test_the_version_is_the_package_s() -> None:
    result = CliRunner().invoke(app, ["--version"])

    assert result.output == f"avbatch {abstractvision_batch.__version__}\n"


def test_every_command_has_help_and_json() -> None:
    reference = write_reference()

    for section in reference.split("## avbatch ")[1:]:
        assert "--json" in section or "\nCommands:\n" in section, section
        assert "-h, --help" in section, section


@pytest.mark.parametrize("path", ["docs/cli.md", "docs/configuration.md", "README.md"])
def test_a_generated_document_is_current(path: str) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == write_documents(ROOT)[ROOT / path], "run `make docs`"
