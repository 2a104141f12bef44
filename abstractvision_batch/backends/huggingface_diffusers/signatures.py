"""What the installed Diffusers has, read from its source: pipelines with the arguments of their calls, schedulers.

Importing it takes seconds and torch; reading one file of it takes milliseconds, so a spec can be checked with it.
Not covered: what an argument does; classes of other packages.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True, slots=True)
class PipelineSource:
    """A pipeline class as its source has it."""

    name: str
    required: dict[str, bool]
    """The arguments of its call, and whether each has to be given."""
    lengths: dict[str, int]
    """Defaults of its arguments that are whole numbers."""


@cache
def read_pipeline(name: str) -> PipelineSource | None:
    """Read a pipeline class; None where Diffusers is not installed or its source does not have the class."""
    file, tree = _find_class(name, "pipelines")
    if file is None or tree is None:
        return None
    call = next((part for part in tree.body if isinstance(part, ast.FunctionDef) and part.name == "__call__"), None)
    if call is not None:
        return PipelineSource(name, _required(call.args), _whole_defaults(call.args))
    for base in tree.bases:
        inherited = read_pipeline(base.id) if isinstance(base, ast.Name) and base.id != name else None
        if inherited is not None:
            return PipelineSource(name, inherited.required, inherited.lengths)
    return None


@cache
def list_schedulers() -> tuple[str, ...]:
    """Return the names of all scheduler classes; none where Diffusers is not installed."""
    root = _root()
    if root is None:
        return ()
    exported = (root / "__init__.py").read_text(encoding="utf-8")
    return tuple(sorted(set(re.findall(r'"((?!Flax)\w+Scheduler)"', exported))))


def _required(arguments: ast.arguments) -> dict[str, bool]:
    plain = [*arguments.posonlyargs, *arguments.args][1:]  # without self
    first_default = len(plain) - len(arguments.defaults)
    required = {argument.arg: index < first_default for index, argument in enumerate(plain)}
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        required[argument.arg] = default is None
    return required


def _whole_defaults(arguments: ast.arguments) -> dict[str, int]:
    plain = [*arguments.posonlyargs, *arguments.args]
    pairs = [*zip(plain[len(plain) - len(arguments.defaults) :], arguments.defaults, strict=True)]
    pairs += [(name, value) for name, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if value]
    values = ((name.arg, value.value) for name, value in pairs if isinstance(value, ast.Constant))
    return {name: value for name, value in values if isinstance(value, int) and not isinstance(value, bool)}


def _find_class(name: str, part: str) -> tuple[Path | None, ast.ClassDef | None]:
    root = _root()
    if root is None or not name.isidentifier():
        return None, None
    header = re.compile(rf"^class {name}\b", re.MULTILINE)
    for file in _files(root / part):
        text = file.read_text(encoding="utf-8")
        if header.search(text):
            for node in ast.parse(text).body:
                if isinstance(node, ast.ClassDef) and node.name == name:
                    return file, node
    return None, None


@cache
def _files(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(folder.rglob("pipeline_*.py")))


@cache
def _root() -> Path | None:
    found = find_spec("diffusers")
    return None if found is None or found.origin is None else Path(found.origin).parent
