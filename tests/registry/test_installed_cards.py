"""The cards are `registry/` of the repository, and are found from a wheel, an editable install and a clone alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from abstractvision_batch.registry.card_file import parse_cards

REPOSITORY = Path(__file__).parents[2]
CARD_FILES = sorted((REPOSITORY / "registry").glob("*.yaml"))
MODELS = sorted(card.id for path in CARD_FILES for card in parse_cards(path.read_text("utf-8"), path.name)[0])


def build(folder: Path, hook: str) -> Path:
    """Build a wheel as pip does, by a hook of the build backend, and return it."""
    code = f"import sys; from hatchling.build import {hook}; print({hook}(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return folder / done.stdout.split()[-1]


def models_listed(path: Path, elsewhere: Path) -> tuple[Path, list[str]]:
    """Return which package a Python with this on its path runs, and the models that it lists."""
    code = "import abstractvision_batch, sys; sys.argv[0] = abstractvision_batch.__file__; print(sys.argv[0])"
    code += "; from abstractvision_batch.cli import main; main(['models', '--json'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        check=True,
    )
    package, listed = done.stdout.splitlines()
    return Path(package).parent, sorted(model["id"] for model in json.loads(listed)["models"])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"), "build_wheel")


def test_a_wheel_has_every_file_that_the_package_reads_and_no_test(wheel: Path) -> None:
    package = REPOSITORY / "abstractvision_batch"
    read = [package / "avbatch.schema.json", package / "py.typed", *(package / "models/shapes64").rglob("*.*")]
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())

    assert {path.relative_to(REPOSITORY).as_posix() for path in read if path.is_file()} <= names
    assert {f"abstractvision_batch/registry/cards/{path.name}" for path in CARD_FILES} <= names
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"abstractvision_batch"}


def test_an_installed_wheel_lists_every_card(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")

    assert models_listed(tmp_path / "site", tmp_path) == (tmp_path / "site/abstractvision_batch", MODELS)


def test_an_editable_install_lists_every_card_and_holds_none(tmp_path: Path) -> None:
    with zipfile.ZipFile(build(tmp_path, "build_editable")) as archive:
        (link,) = [name for name in archive.namelist() if ".dist-info/" not in name]
        on_path = Path(archive.read(link).decode().strip())

    assert models_listed(on_path, tmp_path) == (REPOSITORY / "abstractvision_batch", MODELS)


def test_a_clone_on_the_path_lists_every_card(tmp_path: Path) -> None:
    assert models_listed(REPOSITORY, tmp_path) == (REPOSITORY / "abstractvision_batch", MODELS)


@pytest.mark.slow  # pip adds seconds to what the tests above prove
def test_what_pip_builds_and_installs_lists_every_card(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    offline = ["--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "wheel", str(REPOSITORY), *offline, "--no-build-isolation", "-w", str(tmp_path)], check=True)
    (built,) = tmp_path.glob("*.whl")
    subprocess.run([*pip, "install", *offline, "--target", str(tmp_path / "site"), str(built)], check=True)

    assert models_listed(tmp_path / "site", tmp_path) == (tmp_path / "site/abstractvision_batch", MODELS)
