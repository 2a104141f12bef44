"""What Tab offers: commands, models, tasks, parameters, files and what was made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from abstractvision_batch.backends.table import list_backends
from abstractvision_batch.cli.repl.commands import COMMANDS
from abstractvision_batch.cli.repl.session import Session
from abstractvision_batch.registry.param_rule import STANDARD_PARAMS
from abstractvision_batch.types import TASK_OF_REQUEST, TASKS

_TASK_OF_COMMAND = {
    "/t2i": "text_to_image",
    "/i2i": "image_to_image",
    "/t2v": "text_to_video",
    "/i2v": "image_to_video",
    "/angles": "multi_view_image",
}
#: In requests these are flags of their own kind.
_NO_FLAGS = ("prompt", "extra", "reference_image")


def complete(session: Session, text: str) -> list[str]:
    """Return the whole words that the last word of `text` may become."""
    before, _, word = text.rpartition(" ")
    return sorted(one for one in _candidates(session, before.split(), word) if one.startswith(word))


def _candidates(session: Session, before: list[str], word: str) -> Iterable[str]:
    if not before and word.startswith("/"):
        return COMMANDS
    command = before[0] if before and before[0] in COMMANDS else "/t2i"
    if before and before[-1] in ("--image", "--mask"):
        return _files(word)
    if command in _TASK_OF_COMMAND:
        return _flags(session, _TASK_OF_COMMAND[command]) if word.startswith("-") else ()
    match command, len(before):
        case "/backend", 1:
            return list_backends()
        case "/backend", 2 if before[1] == "diffusers":
            return (*_models_for(session, "diffusers"), *(_files(word) if word else ()))
        case "/backend", _ if before[1:2] == ["sdcpp"]:
            return _files(word)
        case (("/show-model" | "/cap-model"), 1):
            return [*session.registry.list_models(), *(["off"] if command == "/cap-model" else [])]
        case (("/models" | "/provider-models"), 1):
            return TASKS
        case "/set", 1:
            return [name for name in STANDARD_PARAMS if name not in ("prompt", "image", "mask", "reference_image")]
        case "/unset", 1:
            return session.defaults
        case "/store", 1:
            return ["default", *_files(word)]
        case "/open", 1:
            return session.made
    return ()


def _models_for(session: Session, kind: str) -> list[str]:
    return [model for model in session.registry.list_models() if kind in session.registry.card(model).backends]


def _flags(session: Session, task: str) -> Iterable[str]:
    names = {field.name for request, of in TASK_OF_REQUEST.items() if of == task for field in fields(request)}
    card = session.target.card
    names |= set(card.tasks[task].params) if card is not None and task in card.tasks else set()
    names = (names - {*_NO_FLAGS}) | {"open"} | ({"image"} if task == "multi_view_image" else set())
    return [f"--{name.replace('_', '-')}" for name in names]


def _files(word: str) -> Iterable[str]:
    """Return the paths that continue `word`, folders with a slash."""
    folder, slash, _ = word.rpartition("/")
    try:
        found = list(Path(folder + slash or ".").expanduser().iterdir())
    except OSError:
        return ()
    return [f"{folder}{slash}{path.name}{'/' if path.is_dir() else ''}" for path in found]
