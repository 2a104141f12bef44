"""Measure how far a reader has to walk in the package: rooms, files of a knob, files and calls of a run.

    python scripts/measure_house.py                      this checkout
    python scripts/measure_house.py --before fd5c81d     that commit next to it
    python scripts/measure_house.py --root ../other --json

Any checkout whose pyproject.toml names one console script can be measured: the package is the script's. The run is
counted in a process of its own, which starts it through the package's `run` and counts calls of the package's own code;
those of its import are left out.

Not covered: whether a file is worth its place.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import re
import subprocess
import sys
import tempfile
import threading
import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any

ROWS, SHARD_SIZE = 160, 16
#: Where the verb `run` is or was.
RUN_MODULES = ("verbs.run", "run")
Numbers = dict[str, int | float | list[str]]


class House:
    """The package of a checkout, as files and their imports."""

    def __init__(self, root: Path) -> None:
        scripts = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
        self.root = root
        self.name = re.split(r"[.:]", next(iter(scripts.values())))[0]
        self.folder = root / self.name

    @cached_property
    def modules(self) -> dict[str, str]:
        """The source of each module by its dotted name."""
        return {_dotted(path, self.root): path.read_text("utf-8") for path in sorted(self.folder.rglob("*.py"))}

    @cached_property
    def trees(self) -> dict[str, ast.Module]:
        return {name: ast.parse(source) for name, source in self.modules.items()}

    def imports(self, module: str) -> set[str]:
        """Return the modules of the package that this one imports, wherever in it."""
        is_package = (self.root / module.replace(".", "/")).is_dir()
        found: set[str] = set()
        for node in ast.walk(self.trees[module]):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                parts = module.split(".")
                base = parts[: len(parts) - node.level + is_package] if node.level else []
                origin = ".".join([*base, *([node.module] if node.module else [])])
                for name in (f"{origin}.{alias.name}" for alias in node.names):
                    found.add(name if name in self.modules else origin)
        return (found & self.modules.keys()) - {module}

    def measure(self, knobs: list[str]) -> Numbers:
        """Return all numbers by what they count."""
        numbers: Numbers = {"modules in the root": sorted(path.stem for path in self.folder.glob("*.py"))}
        for knob in knobs:
            word = re.compile(rf"\b{re.escape(knob)}\b")
            numbers[f"files that name {knob}"] = [
                name.removeprefix(f"{self.name}.") for name, source in self.modules.items() if word.search(source)
            ]
        numbers |= self.count_calls()

        importers = Counter(target for module in self.modules for target in self.imports(module))
        alone = sum(count == 1 for count in importers.values())
        numbers["modules"] = len(self.modules)
        numbers["modules with one importer"] = alone
        numbers["  share of them, %"] = round(100 * alone / len(self.modules), 1)
        arrows = {(self.room(one), self.room(two)) for one in self.modules for two in self.imports(one)}
        numbers["rooms at the top"] = len({self.room(module) for module in self.modules})
        numbers["arrows between them"] = len([one for one, two in arrows if one != two])

        functions = [node for tree in self.trees.values() for node in ast.walk(tree) if isinstance(node, _FUNCTION)]
        many = sum(_count_parameters(function) > 6 for function in functions)
        numbers["functions"] = len(functions)
        numbers["functions with more than 6 parameters, %"] = round(100 * many / len(functions), 1)
        lines = [source.count("\n") for source in self.modules.values()]
        numbers["lines of the longest module"] = max(lines)
        numbers["lines of the package"] = sum(lines)
        numbers["lines of tests"] = sum(
            path.read_text("utf-8").count("\n") for path in (self.root / "tests").rglob("*.py")
        )
        return numbers

    def room(self, module: str) -> str:
        """Return the top-level package or module that holds this one."""
        return f"{module}.__init__".split(".")[1]

    def count_calls(self) -> Numbers:
        """Count the calls of one run in a process whose package is this checkout's."""
        with tempfile.TemporaryDirectory() as scratch:
            command = [sys.executable, __file__, "--count-calls", scratch, "--root", str(self.root)]
            done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{self.root}: the counted run failed:\n{done.stderr}")
        return dict(json.loads(done.stdout))


_FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def _dotted(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def _count_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    named = [arg.arg for arg in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    return len([name for name in named if name not in ("self", "cls")])


def run_and_count(house: House, scratch: Path) -> Numbers:
    """Run a procedural job inline, and count files entered, calls, and calls that come from another own file."""
    sys.path.insert(0, str(house.root))
    where = next(f"{house.name}.{home}" for home in RUN_MODULES if f"{house.name}.{home}" in house.modules)
    run = importlib.import_module(where).run
    spec = {
        "version": 1,
        "name": "house",
        "model": "avbatch/procedural",
        "backend": {"kind": "procedural"},
        "prompts": {"source": "prompts.txt"},
        "params": {"width": 32, "height": 32, "seed": 7},
        "output": {"path": str(scratch / "run")},
        "execution": {"executor": "inline", "shard_size": SHARD_SIZE},
    }
    (scratch / "prompts.txt").write_text("".join(f"a fox {number}\n" for number in range(ROWS)), "utf-8")
    (scratch / "job.yaml").write_text(json.dumps(spec), "utf-8")  # JSON is YAML

    own = f"{house.folder}/"
    calls: Counter[tuple[str, bool]] = Counter()  # by the called file, and whether the nearest own caller is elsewhere

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or frame.f_code.co_name == "<module>" or not frame.f_code.co_filename.startswith(own):
            return
        caller = frame.f_back
        while caller is not None and not caller.f_code.co_filename.startswith(own):
            caller = caller.f_back
        file = frame.f_code.co_filename
        calls[file, caller is not None and caller.f_code.co_filename != file] += 1

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        result = run(scratch / "job.yaml")
    finally:
        sys.setprofile(None)
    if result.succeeded != ROWS:
        raise SystemExit(f"{result.succeeded} of {ROWS} rows succeeded")
    return {
        "files entered by a run": len({file for file, _ in calls}),
        "own calls per row": round(calls.total() / ROWS),
        "changes of file per row": round(sum(count for (_, changes), count in calls.items() if changes) / ROWS),
    }


@contextmanager
def checked_out(root: Path, commit: str) -> Iterator[Path]:
    """Lend a worktree of the commit."""
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        subprocess.run(["git", "-C", root, "worktree", "add", "--quiet", "--detach", tree, commit], check=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "-C", root, "worktree", "remove", "--force", tree], check=True)


def main() -> None:
    """Print the numbers of one checkout or of two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).parent.parent, help="the checkout to measure")
    parser.add_argument("--before", metavar="COMMIT", help="measure this commit as well")
    parser.add_argument("--knob", action="append", help="a field's name whose files are counted; may be repeated")
    parser.add_argument("--json", action="store_true", help="print JSON, with the names of modules")
    parser.add_argument("--count-calls", metavar="SCRATCH", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    root = arguments.root.resolve()
    if arguments.count_calls:
        print(json.dumps(run_and_count(House(root), arguments.count_calls)))
        return

    knobs = arguments.knob or ["clip_l", "quantization"]
    columns: dict[str, Numbers] = {}
    if arguments.before:
        with checked_out(root, arguments.before) as tree:
            columns[arguments.before] = House(tree).measure(knobs)
    columns["here"] = House(root).measure(knobs)
    if arguments.json:
        print(json.dumps(columns, indent=1))
        return
    print(f"{'':42}" + "".join(f"{name:>12}" for name in columns))
    for label in columns["here"]:
        cells = [numbers[label] for numbers in columns.values()]
        print(f"{label:42}" + "".join(f"{len(cell) if isinstance(cell, list) else cell:>12,}" for cell in cells))
    for label, value in columns["here"].items():
        if isinstance(value, list):
            print(f"\n{label}: {' '.join(value)}")


if __name__ == "__main__":
    main()
