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
from abstractvision_batch.backends.base_backend import VisionBackend
from abstractvision_batch.job.backend_section import BackendSection

PACKAGE = Path(abstractvision_batch.__file__).parent
NAME = PACKAGE.name
TESTS = Path(__file__).parents[1]

#: Lowest first. A room imports from lower rows, and in its row from those to its right. Modules of the root are rooms.
LAYERS = (
    ("artifacts", "types", "errors", "text", "version"),
    ("documents", "storage", "media"),
    ("model_capabilities", "job", "registry"),
    ("runs",),
    ("vision_manager", "plan", "prompts", "backends"),
    ("report",),
    ("execute",),
    ("integrations", "emit", "schedule", "submit", "verbs"),
    ("__main__", "cli"),
)
#: What `job` may import of a higher row: the table of backends, which names classes.
SECTIONS = re.compile(rf"{NAME}\.backends\.table\b")
#: The files of the root: those whose paths are promised, and the version.
ROOT = {"__init__", "__main__", "artifacts", "errors", "model_capabilities", "types", "version", "vision_manager"}
PRIVATE = re.compile("_[^_]")
#: Heavy packages, and what is done in one place, with the only places that may import them, as paths of the package.
HEAVY = {
    "ray": ("execute/ray/", "submit/ray_jobs.py"),
    "torch": ("backends/huggingface_diffusers/",),
    "diffusers": ("backends/huggingface_diffusers/",),
    "transformers": ("backends/huggingface_diffusers/",),
    "peft": ("backends/huggingface_diffusers/",),
    "httpx": ("backends/openai_compatible/transport.py",),
    "av": ("media/video.py",),
    "stable_diffusion_cpp": ("backends/stable_diffusion_cpp/binding_worker.py",),
    "prompt_toolkit": ("cli/repl/line_editor.py",),
    "cronsim": ("schedule/cron.py", "emit/ticks.py"),
    "dynamicprompts": ("prompts/grammar.py",),
    "datasets": ("prompts/hub_datasets.py",),
    "difflib": ("text/suggestions.py", "prompts/notes.py"),
    "duckdb": ("documents/conditions.py",),
}
#: What neither the package nor the command's help may load.
NOT_AT_IMPORT = (
    "torch",
    "diffusers",
    "transformers",
    "ray",
    "httpx",
    "duckdb",
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


def _place(room: str) -> tuple[int, int]:
    """The row of a room, and its column from the right."""
    return next((row, -names.index(room)) for row, names in enumerate(LAYERS) if room in names)


def test_the_root_holds_the_promised_modules_and_nothing_else() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == ROOT
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert folders | ROOT - {"__init__"} == {room for row in LAYERS for room in row}


def test_a_room_imports_from_lower_rows_and_from_its_right() -> None:
    wrong = []
    for path in _modules():
        room = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if room == "__init__":
            continue  # the package's own names are lazy, so it may name every room
        for imported in _imports(path):
            other = imported.removeprefix(f"{NAME}.").split(".")[0]
            if room == "job" and SECTIONS.match(imported):
                continue
            if imported.startswith(f"{NAME}.") and other != room and _place(other) >= _place(room):
                wrong.append(f"{path.relative_to(PACKAGE)} imports {imported}")
    assert wrong == []


def test_the_section_of_a_backend_imports_of_backends_its_own_package_only() -> None:
    sections = list(PACKAGE.glob("backends/*/fields.py"))
    wrong = [
        f"{path.parent.name} imports {imported}"
        for path in sections
        for imported in _imports(path)
        if imported.startswith(f"{NAME}.backends.") and not imported.startswith(f"{NAME}.backends.{path.parent.name}.")
    ]
    assert len(sections) == 4
    assert wrong == []


def test_outside_backends_nobody_asks_a_section_for_its_kind_or_for_fields_that_it_may_not_have() -> None:
    """Such a question has no answer for a backend of another package; `BackendSection` has methods with defaults."""
    asking = re.compile(
        r"getattr\((\w+\.)*(backend|section)\b|backend\.kind (==|!=|in|not in) [\"(\[{]|"
        r"isinstance\([^)]*BackendSpec\b|case \w+BackendSpec\(|\b\w+BackendSpec\(\)"
    )
    elsewhere = [path for path in _modules() if not path.is_relative_to(PACKAGE / "backends")]
    found = [
        f"{path.relative_to(PACKAGE).as_posix()}: {match[0]}"
        for path in elsewhere
        for match in asking.finditer(path.read_text("utf-8"))
    ]
    imported = [
        f"{path.relative_to(PACKAGE).as_posix()} imports {name}"
        for path in elsewhere
        for name in _imports(path)
        if re.match(rf"{NAME}\.backends\.\w+\.fields\b", name)
    ]

    assert found + imported == []


def test_outside_backends_nobody_reads_a_field_that_only_some_sections_have() -> None:
    """Every attribute of a backend's section that is read is one of `BackendSection`."""
    reading = re.compile(r"\b(?:spec|context|job|target|self|record\.spec)\.backend\.([a-z]\w*)")
    known = {name for name in dir(BackendSection) if not name.startswith("_")} | {"kind"}
    manager = {name for name in dir(VisionBackend) if not name.startswith("_")}  # `context.backend` may be one

    read = {
        (path.relative_to(PACKAGE).as_posix(), match[1])
        for path in _modules()
        if not path.is_relative_to(PACKAGE / "backends")
        for match in reading.finditer(path.read_text("utf-8"))
    }

    assert {name for _, name in read} >= {"max_in_flight", "kind"}
    assert [one for one in sorted(read) if one[1] not in known | manager] == []


@pytest.mark.parametrize("knob", ["clip_l", "clip_vision", "flash_attention", "quantization"])
def test_a_knob_of_a_backend_is_named_in_three_files_at_most(knob: str) -> None:
    """What the engine, the command line and the environment call it is said on its field, in `fields.py`."""
    word = re.compile(rf"\b{knob}\b")

    assert len([path for path in _modules() if word.search(path.read_text("utf-8"))]) <= 3


def test_a_heavy_package_is_imported_in_its_own_place_only() -> None:
    elsewhere = [
        f"{relative} imports {package}"
        for path in _modules()
        for package in {name.split(".")[0] for name in _imports(path)} & HEAVY.keys()
        if not (relative := path.relative_to(PACKAGE).as_posix()).startswith(HEAVY[package])
    ]
    assert elsewhere == []


@pytest.mark.parametrize(
    ("written", "place"),
    [
        # A thread of Arrow that lets go of a Python buffer at the interpreter's end aborts the process at times.
        (r"\b(ParquetFile|ParquetDataset|read_table|open_csv)\(|pyarrow\.dataset", "storage/parquet.py"),
        # What has no promise may be gone in Ray's next version.
        (r"\bray\._[a-z]|__ray_", "execute/ray/internals.py"),
        (r"\bfile_digest\(|digest\.update\(block\)", "storage/file_hashes.py"),
    ],
    ids=["parquet", "ray", "file hash"],
)
def test_what_is_delicate_is_written_in_one_place(written: str, place: str) -> None:
    found = [path.relative_to(PACKAGE).as_posix() for path in _modules() if re.search(written, path.read_text("utf-8"))]

    assert found == [place]


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


def _other(default: object) -> object:
    """Return a value that is not an attribute's default."""
    return not default if isinstance(default, bool) else ("a",) if isinstance(default, tuple) else 7


@pytest.mark.parametrize("cls", _error_classes())
def test_an_error_survives_pickling_with_its_message_and_attributes(cls: type[errors.AbstractVisionError]) -> None:
    declared = list(inspect.signature(cls).parameters.values())[1:]
    error = cls("specs/a.yaml:3:1: steps: wrong (fix it)", **{one.name: _other(one.default) for one in declared})

    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is cls
    assert str(copy) == str(error)
    assert copy.__dict__ == error.__dict__


@pytest.mark.parametrize("cls", _error_classes())
def test_an_error_takes_by_keyword_only_what_its_class_declares(cls: type[errors.AbstractVisionError]) -> None:
    with pytest.raises(TypeError, match="overlaoded"):
        cls("x", **{"overlaoded": True})


def test_no_attribute_of_an_error_is_read_by_its_name_as_text() -> None:
    """A misspelt one would be its default for ever. `storage/failures.py` reads errors that it has no types for."""
    found = []
    for path in _modules():
        text = path.read_text("utf-8")
        names = "|".join({"error", "exc", *re.findall(r"except .+ as (\w+):", text)})
        if re.search(rf"\b(getattr|hasattr|setattr|vars)\(({names})\b|\b({names}|self)\.__dict__", text):
            found.append(path.relative_to(PACKAGE).as_posix())

    assert found == ["storage/failures.py"]


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


def test_no_test_speaks_of_an_older_library_in_its_name() -> None:
    """A name says what holds, whatever came before."""
    names = (
        name for path in TESTS.rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text("utf-8"))
    )

    assert [name for name in names if "older_library" in name and not name.startswith("test_no_test_speaks")] == []


def test_tests_use_what_has_a_public_name() -> None:
    """A private name may change with no test to change."""
    found = [f"{path.relative_to(TESTS)}: {name}" for path in TESTS.rglob("*.py") for name in _private_names(path)]

    assert sorted(found) == []


def _private_names(path: Path) -> Iterator[str]:
    """Yield the private names of the package, and of other tests, that a test imports, reads or replaces."""
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    ours = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in (NAME, "tests"):
            ours |= {alias.asname or alias.name for alias in node.names}
            yield from (alias.name for alias in node.names if PRIVATE.match(alias.name))
    for node in nodes:
        match node:
            case ast.Attribute(value=ast.Name(id=owner), attr=name) if owner in ours and PRIVATE.match(name):
                yield f"{owner}.{name}"
            case ast.Call(
                func=ast.Attribute(attr="setattr"), args=[ast.Name(id=owner), ast.Constant(value=str(name)), *_]
            ):
                if owner in ours and PRIVATE.match(name):
                    yield f"{owner}.{name}"
