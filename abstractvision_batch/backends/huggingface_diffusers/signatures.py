"""What the installed Diffusers has, read from its source: pipelines with the arguments of their calls, schedulers.

Importing it takes seconds and torch; reading one file of it takes milliseconds, so a spec can be checked with it.
Not covered: what an argument does; classes of other packages.
"""

from __future__ import annotations

import ast
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

#: Where Diffusers says which classes share weights.
_PAIRS = {
    "AUTO_TEXT2IMAGE_PIPELINES_MAPPING": "text_to_image",
    "AUTO_IMAGE2IMAGE_PIPELINES_MAPPING": "image_to_image",
    "AUTO_INPAINT_PIPELINES_MAPPING": "inpaint",
}


@dataclass(frozen=True, slots=True)
class PipelineSource:
    """A pipeline class as its source has it."""

    name: str
    required: dict[str, bool]
    """The arguments of its call, and whether each has to be given."""
    defaults: dict[str, Any]
    """Defaults of its arguments, of those that are plain values."""
    packing: int = 1
    """How many pixels of latents one side of a patch has, where its image processor counts patches."""
    parts: tuple[str, ...] = ()
    """What it cannot be made without."""


@dataclass(frozen=True, slots=True)
class SchedulerSource:
    """A scheduler class as its source has it."""

    name: str
    settings: dict[str, ast.expr | None]
    """Its settings, each with how its type is written."""
    defaults: dict[str, Any]
    """Defaults of its settings, of those that are plain values."""
    compatibles: tuple[str, ...]
    """The classes that may take its place, by itself."""


@cache
def read_pipeline(name: str) -> PipelineSource | None:
    """Read a pipeline class; None where Diffusers is not installed or its source does not have the class."""
    tree = _find_class(name, "pipelines/**/pipeline_*.py")
    if tree is None:
        return None
    call, init = _method(tree, "__call__"), _method(tree, "__init__")
    if call is not None:
        parts = tuple(part for part, needed in _required(init.args).items() if needed) if init is not None else ()
        return PipelineSource(name, _required(call.args), _plain_defaults(call.args), _packing(tree), parts)
    for base in tree.bases:
        inherited = read_pipeline(base.id) if isinstance(base, ast.Name) and base.id != name else None
        if inherited is not None:
            return replace(inherited, name=name)
    return None


@cache
def read_pairs() -> dict[str, dict[str, str]]:
    """Return which classes share weights: by kind of image request, the class of each family of Diffusers."""
    root = _root()
    if root is None:
        return {}
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse((root / "pipelines" / "auto_pipeline.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(target := node.targets[0], ast.Name) and target.id in _PAIRS:
            lists = [part for part in ast.walk(node.value) if isinstance(part, ast.Tuple) and len(part.elts) == 2]
            found[_PAIRS[target.id]] = {
                key.value: value.id
                for key, value in (part.elts for part in lists)
                if isinstance(key, ast.Constant) and isinstance(key.value, str) and isinstance(value, ast.Name)
            }
    return found


@cache
def read_scheduler_source(name: str) -> SchedulerSource | None:
    """Read a scheduler class; None where Diffusers is not installed or its source does not have the class."""
    tree = _find_class(name, "schedulers/**/scheduling_*.py")
    if tree is None:
        return None
    init = _method(tree, "__init__")
    arguments = ast.arguments([], [], None, [], [], None, []) if init is None else init.args
    names = [*arguments.posonlyargs, *arguments.args][1:] + arguments.kwonlyargs
    listed = (
        part.value
        for part in tree.body
        if isinstance(part, ast.Assign)
        and isinstance(part.targets[0], ast.Name)
        and part.targets[0].id == "_compatibles"
    )
    return SchedulerSource(
        name,
        {argument.arg: argument.annotation for argument in names},
        _plain_defaults(arguments),
        _compatibles(next(listed, None)),
    )


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


def _plain_defaults(arguments: ast.arguments) -> dict[str, Any]:
    plain = [*arguments.posonlyargs, *arguments.args]
    pairs = [*zip(plain[len(plain) - len(arguments.defaults) :], arguments.defaults, strict=True)]
    pairs += [(name, value) for name, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if value]
    found: dict[str, Any] = {}
    for name, value in pairs:
        with suppress(ValueError):  # an expression, such as another name
            found[name.arg] = ast.literal_eval(value)
    return found


def _packing(tree: ast.ClassDef) -> int:
    """Return what a class multiplies its VAE's factor by for its image processor, 2 for Flux."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("Processor"):
            factors = [word.value for word in node.keywords if word.arg == "vae_scale_factor"]
            for factor in factors:
                if (
                    isinstance(factor, ast.BinOp)
                    and isinstance(factor.op, ast.Mult)
                    and isinstance(factor.right, ast.Constant)
                    and isinstance(factor.right.value, int)
                ):
                    return factor.right.value
    return 1


def _compatibles(listed: ast.expr | None) -> tuple[str, ...]:
    """Read a list of classes: as it stands there, or the members of an enumeration."""
    if isinstance(listed, ast.ListComp) and isinstance(listed.generators[0].iter, ast.Name):
        members = _find_class(listed.generators[0].iter.id, "schedulers/scheduling_utils.py")
        assigned = [part for part in members.body if isinstance(part, ast.Assign)] if members else []
        return tuple(ast.unparse(part.targets[0]) for part in assigned)
    listed_names = listed.elts if isinstance(listed, ast.List) else []
    return tuple(str(name.value) for name in listed_names if isinstance(name, ast.Constant))


def _method(tree: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    return next((part for part in tree.body if isinstance(part, ast.FunctionDef) and part.name == name), None)


def _find_class(name: str, pattern: str) -> ast.ClassDef | None:
    root = _root()
    headers = (f"\nclass {name}(".encode(), f"\nclass {name}:".encode())
    for file in () if root is None else _files(root, pattern):
        source = file.read_bytes()
        if any(header in source for header in headers):
            for node in ast.parse(source).body:
                if isinstance(node, ast.ClassDef) and node.name == name:
                    return node
    return None


@cache
def _files(root: Path, pattern: str) -> tuple[Path, ...]:
    return tuple(sorted(root.glob(pattern)))


@cache
def _root() -> Path | None:
    found = find_spec("diffusers")
    return None if found is None or found.origin is None else Path(found.origin).parent
