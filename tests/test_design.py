"""The design's rules that a reader cannot see at a glance: layers, light import, errors that pickle."""

from __future__ import annotations

import ast
import inspect
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import abstractvision_batch
from abstractvision_batch import errors

PACKAGE = Path(abstractvision_batch.__file__).parent
NAME = PACKAGE.name

#: Lowest first; a module imports from its own row and lower ones. The longest matching prefix decides.
LAYERS = (
    ("errors", "redaction"),
    ("types", "artifacts", "media", "parquet", "scratch", "storage"),
    ("spec", "registry", "model_capabilities"),
    ("plan",),
    ("backends", "vision_manager"),
    ("execute", "report"),
    (
        "scheduling",
        "emit",
        *("schedule", "backfill", "runs"),
        *(
            "run",
            "start",
            "extension",
            "readiness",
            "recorded_run",
            "started_runs",
            "trust",
            "new_output",
            "retry",
            "audit",
            "generate_now",
        ),
        *(
            "rerun",
            "verify",
            "diff",
            "diff_html",
            "pixel_comparison",
            "lock",
            "changes",
            "row_program",
            "row_sample",
            "job_package",
            "submit",
            "jobs",
            "integrations",
        ),
    ),
    ("cli", "__main__"),
)
#: Heavy third-party packages and the only places that may import them, as paths of the package.
HEAVY = {
    "ray": ("execute/ray_join.py", "execute/ray_cluster.py", "execute/ray_jobs.py"),
    "torch": ("backends/huggingface_diffusers/",),
    "diffusers": ("backends/huggingface_diffusers/",),
    "transformers": ("backends/huggingface_diffusers/",),
    "peft": ("backends/huggingface_diffusers/",),
    "httpx": ("backends/openai_compatible/transport.py",),
    "av": ("media/video.py",),
    "stable_diffusion_cpp": ("backends/stable_diffusion_cpp/binding_worker.py",),
    "prompt_toolkit": ("cli/repl/line_editor.py",),
    "cronsim": ("scheduling/cron.py", "emit/ticks.py"),
}
#: What neither the package nor the command's help may load.
NOT_AT_IMPORT = (
    "torch",
    "diffusers",
    "transformers",
    "ray",
    "httpx",
    "pyarrow",
    "numpy",
    "pydantic",
    "jinja2",
    "PIL",
    "fsspec",
    "prompt_toolkit",
)


def _modules() -> Iterator[Path]:
    yield from sorted(PACKAGE.rglob("*.py"))


@cache
def _imports(path: Path) -> tuple[str, ...]:
    """Read once: every rule walks all modules."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(found)


def _layer(dotted: str) -> int | None:
    first = dotted.split(".")[0]
    return next((row for row, names in enumerate(LAYERS) if first in names), None)


def test_every_module_has_a_layer() -> None:
    missing = [path.name for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    missing = [name for name in missing if name != "__init__.py" and _layer(name.removesuffix(".py")) is None]
    assert missing == [], "add the module to a row of LAYERS"


def test_a_module_imports_only_from_its_own_layer_and_lower_ones() -> None:
    upwards = []
    for path in _modules():
        own = path.relative_to(PACKAGE).with_suffix("")
        row = _layer(own.parts[0])
        if own.parts == ("__init__",) or row is None:
            continue  # the package's own names are lazy, so it may name every layer
        for imported in _imports(path):
            target = _layer(imported.removeprefix(f"{NAME}.")) if imported.startswith(f"{NAME}.") else None
            if target is not None and target > row:
                upwards.append(f"{own} imports {imported}, which is in a higher layer")
    assert upwards == []


def test_a_heavy_package_is_imported_in_its_own_place_only() -> None:
    elsewhere = [
        f"{relative} imports {package}"
        for path in _modules()
        for package in {name.split(".")[0] for name in _imports(path)} & HEAVY.keys()
        if not (relative := path.relative_to(PACKAGE).as_posix()).startswith(HEAVY[package])
    ]
    assert elsewhere == []


def test_parquet_is_opened_in_one_place_so_that_no_thread_of_arrow_outlives_a_reader() -> None:
    """A thread that lets go of a Python buffer at the interpreter's end aborts the process, once in a few dozen."""
    direct = re.compile(r"\b(ParquetFile|ParquetDataset|read_table|open_csv)\(|pyarrow\.dataset")
    found = [path.relative_to(PACKAGE).as_posix() for path in _modules() if direct.search(path.read_text("utf-8"))]

    assert found == ["parquet.py"]


@pytest.mark.parametrize("code", [f"import {NAME}", f"from {NAME}.cli import main; main(['--help'])"])
def test_importing_and_asking_for_help_load_nothing_heavy(code: str) -> None:
    script = f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\nprint('LOADED', *sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.rsplit("LOADED", 1)[1].split())

    assert loaded.isdisjoint(NOT_AT_IMPORT)


def _error_classes() -> list[type[errors.AbstractVisionError]]:
    return [
        value
        for _, value in inspect.getmembers(errors, inspect.isclass)
        if issubclass(value, errors.AbstractVisionError)
    ]


@pytest.mark.parametrize("cls", _error_classes())
def test_an_error_survives_pickling_with_its_message_and_attributes(cls: type[errors.AbstractVisionError]) -> None:
    error = cls("specs/a.yaml:3:1: steps: wrong (mend it)")
    error.__dict__["shard"] = 7

    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is cls
    assert str(copy) == str(error)
    assert copy.__dict__ == error.__dict__


@pytest.mark.parametrize("cls", _error_classes())
def test_the_tree_drawn_on_top_of_errors_names_every_error(cls: type[errors.AbstractVisionError]) -> None:
    assert errors.__doc__ is not None
    line = next(line for line in errors.__doc__.splitlines() if line.split()[:1] == [cls.__name__])
    depth = (len(line) - len(line.lstrip()) - 4) // 2
    ours = [base for base in cls.__mro__ if issubclass(base, errors.AbstractVisionError)]
    assert depth == len(ours) - 1


def test_every_exit_code_of_the_tree_is_one_of_the_documented() -> None:
    assert {cls.exit_code for cls in _error_classes()} <= {1, 2, 3, 4, 130}


def test_no_module_is_a_drawer_for_everything() -> None:
    assert not [path.name for path in _modules() if path.stem in {"utils", "common", "helpers", "misc"}]
