"""The commands of a session: one small function each, and the table of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from abstractvision_batch.backends.from_environment import describe_environment
from abstractvision_batch.cli.repl.session import Session
from abstractvision_batch.cli.request_words import parse_request, parse_value, split_words, take_flags
from abstractvision_batch.errors import SpecError
from abstractvision_batch.model_capabilities import TASK_DESCRIPTIONS
from abstractvision_batch.registry.param_rule import STANDARD_PARAMS
from abstractvision_batch.text.suggestions import foreign_name_of, hint_for
from abstractvision_batch.types import TASKS, Task

#: Takes the session and what stands after the command; returns the lines of the reply.
Action = Callable[[Session, str], list[str]]

BACKEND_USAGE = (
    "/backend openai <url> [key-env] [model]",
    "/backend diffusers <model> [device] [dtype]",
    "/backend sdcpp <model> [cli]",
    "/backend sdcpp <diffusion-model> <vae> <llm> [cli]",
    "/backend procedural",
)


@dataclass(frozen=True, slots=True)
class Command:
    """One slash command."""

    usage: str
    help: str
    run: Action


def run_line(session: Session, line: str) -> list[str]:
    """Do what a line says and return the reply; plain text is a prompt for an image.

    Raises:
        AbstractVisionError: a mistake, or a generation that failed.
    """
    line = line.strip()
    if not line.startswith("/"):
        return _generate("text_to_image")(session, line) if line else []
    name, _, rest = line.partition(" ")
    command = COMMANDS.get(ALIASES.get(name, name))
    if command is None:
        raise SpecError(f"{name}: unknown command ({hint_for(name, COMMANDS, '/help lists them')})")
    return command.run(session, rest.strip())


def _generate(task: Task) -> Action:
    def run(session: Session, rest: str) -> list[str]:
        lines = []
        for found in session.generate(task, parse_request(rest)):
            ref = {key: value for key, value in found["artifact"].items() if key != "metadata"}
            lines += [json.dumps(ref), *([found["path"]] if found["path"] else [])]
            lines += [] if found["seed"] is None else [f"seed {found['seed']}"]
        return lines

    return run


def _help(session: Session, rest: str) -> list[str]:
    width = max(len(command.usage) for command in COMMANDS.values())
    lines = [f"{command.usage:{width}}  {command.help}" for command in COMMANDS.values()]
    note = (
        "Plain text is /t2i. --flags are parameters, or what only the backend knows; the words beside them the prompt."
    )
    more = "After /backend, --flags are further fields of a job's backend section: --mode server, --variant fp16."
    return [*lines, "", *BACKEND_USAGE, "", more, note]


def _exit(session: Session, rest: str) -> list[str]:
    session.ended = True
    return []


def _models(session: Session, rest: str) -> list[str]:
    return session.registry.models_for_task(_task(rest)) if rest else session.registry.list_models()


def _provider_models(session: Session, rest: str) -> list[str]:
    task = _task(rest) if rest else None
    models = session.manager().list_provider_models(task=task)
    kind = session.target.backend.kind
    return [model.id for model in models] or [f"none: {kind} offers no {'such ' if task else ''}catalog of models"]


def _tasks(session: Session, rest: str) -> list[str]:
    return [f"{task}: {TASK_DESCRIPTIONS[task]}" for task in TASKS]


def _show_model(session: Session, rest: str) -> list[str]:
    card = session.registry.card(_one_word(rest, "/show-model <id>"))
    lines = [card.id, f"provider: {card.provider}", f"license: {card.license}"]
    lines += [f"notes: {card.notes}"] if card.notes else []
    for name, task in card.tasks.items():
        lines.append(f"{name} ({', '.join(card.backends_for(name)) or 'no backend'})")
        params = {name: rule for name, rule in task.params.items() if rule.supported}
        for word, required in (("required", True), ("optional", False)):
            names = [name for name, rule in params.items() if rule.required == required]
            lines += [f"  {word} params: {', '.join(names)}"] if names else []
    return lines


def _config(session: Session, rest: str) -> list[str]:
    target = session.target
    section = target.backend.model_dump(exclude_defaults=True, exclude={"kind"})
    lines = [f"backend: {target.backend.kind}", f"model: {target.model or 'the server has its own'}"]
    lines += [f"  {name}: {_shown(name, value)}" for name, value in section.items()]
    lines += [f"cap-model: {target.card.id if target.card else 'off'}", f"store: {session.store_place}"]
    return [*lines, *(f"{name}={value}" for name, value in describe_environment(session.environ))]


def _backend(session: Session, rest: str) -> list[str]:
    plain, flags = take_flags(split_words(rest))
    kind, *words = [word.value for word in plain] or [""]
    given = {name: True if text is None else parse_value(name, text) for name, text in flags.items()}
    match kind, words:
        case "", []:
            return [f"backend: {session.target.backend.kind}", *BACKEND_USAGE]
        case "openai", [url, *more] if len(more) <= 2:
            key, model = [*(None if word == "-" else word for word in more), None, None][:2]
            if key is not None and key not in session.environ:
                raise SpecError(
                    "/backend openai: after the URL comes the name of a variable that holds the key, and is set"
                )
            server = {"base_url": url, "api_key": None if key is None else {"env": key}}
            session.use_backend("openai", model, **server | given)
        case "diffusers", [model, *more] if len(more) <= 2:
            device, dtype = [*more, None, None][:2]
            path = model if Path(model).expanduser().exists() else None
            own = {"model_path": path, "device": device, "dtype": dtype}
            session.use_backend("diffusers", model, **own | given)
        case "sdcpp", [model, *more] if len(more) <= 1:
            session.use_backend("sdcpp", model, **{"model_path": model} | _program(more) | given)
        case "sdcpp", [model, vae, llm, *more] if len(more) <= 1:
            files = {"diffusion_model": model, "vae": vae, "llm": llm}
            session.use_backend("sdcpp", model, **files | _program(more) | given)
        case "procedural", []:
            session.use_backend("procedural", None, **given)
        case _:
            fits = [usage for usage in BACKEND_USAGE if usage.split()[1] == kind] or list(BACKEND_USAGE)
            raise SpecError(f"/backend {kind}: is written {' or '.join(fits)}")
    model_name = session.target.model or "the server's model"
    return [f"backend: {session.target.backend.kind}, {model_name}"]


def _cap_model(session: Session, rest: str) -> list[str]:
    model = _one_word(rest, "/cap-model <id|off>")
    session.use_card(None if model == "off" else model)
    return [f"cap-model: {model}"]


def _store(session: Session, rest: str) -> list[str]:
    session.use_store(_one_word(rest, "/store <dir|url|default>"))
    return [f"store: {session.store_place}"]


def _set(session: Session, rest: str) -> list[str]:
    name, _, value = rest.partition(" ")
    name = name.lstrip("-").replace("-", "_")
    if not name or not value.strip():
        raise SpecError("/set: is written /set <parameter> <value>")
    ours = foreign_name_of(name, list(STANDARD_PARAMS))
    if name not in STANDARD_PARAMS and ours is not None:
        raise SpecError(f"/set {name}: is no parameter (write {ours})")
    words = split_words(value)
    session.defaults[name] = parse_value(name, words[0].value if len(words) == 1 else value.strip())
    return [f"{name}: {_shown(name, session.defaults[name])}"]


def _unset(session: Session, rest: str) -> list[str]:
    name = _one_word(rest, "/unset <parameter>").lstrip("-").replace("-", "_")
    if name not in session.defaults:
        raise SpecError(f"/unset {name}: is not set (set: {', '.join(session.defaults) or 'nothing'})")
    del session.defaults[name]
    return _defaults(session, "")


def _defaults(session: Session, rest: str) -> list[str]:
    return [f"{name}: {_shown(name, value)}" for name, value in session.defaults.items()] or ["nothing is set"]


def _open(session: Session, rest: str) -> list[str]:
    if not rest and not session.made:
        raise SpecError("/open: nothing was made yet (/open <id>)")
    return [str(path) for path in session.open_artifacts(rest.split() or session.made[-1:])]


COMMANDS: dict[str, Command] = {
    "/t2i": Command("/t2i <prompt> [--flags]", "generate an image from a prompt", _generate("text_to_image")),
    "/i2i": Command("/i2i --image FILE [--mask FILE] <prompt>", "change an image", _generate("image_to_image")),
    "/t2v": Command("/t2v <prompt> [--flags]", "generate a video from a prompt", _generate("text_to_video")),
    "/i2v": Command("/i2v --image FILE [prompt]", "generate a video from an image", _generate("image_to_video")),
    "/angles": Command("/angles [--image FILE] <prompt>", "generate several views", _generate("multi_view_image")),
    "/open": Command("/open [id]", "show an artifact; the last one, if none is named", _open),
    "/set": Command("/set <parameter> <value>", "give every request a parameter", _set),
    "/unset": Command("/unset <parameter>", "no longer", _unset),
    "/defaults": Command("/defaults", "what is set", _defaults),
    "/backend": Command("/backend <kind> …", "change the backend, in one of the ways below", _backend),
    "/cap-model": Command("/cap-model <id|off>", "whose card requests are checked against", _cap_model),
    "/store": Command("/store <dir|url|default>", "where outputs go", _store),
    "/config": Command("/config", "backend, model, store and variables", _config),
    "/models": Command("/models [task]", "models that have a card", _models),
    "/provider-models": Command("/provider-models [task]", "models that the server offers", _provider_models),
    "/tasks": Command("/tasks", "the tasks there are", _tasks),
    "/show-model": Command("/show-model <id>", "one model's card", _show_model),
    "/help": Command("/help", "this list", _help),
    "/exit": Command("/exit, /quit, /q", "end", _exit),
}
ALIASES = {"/quit": "/exit", "/q": "/exit"}


def _one_word(rest: str, usage: str) -> str:
    words = split_words(rest)
    if len(words) != 1:
        raise SpecError(f"{usage.split()[0]}: is written {usage}")
    return words[0].value


def _task(word: str) -> str:
    if word not in TASKS:
        raise SpecError(f"{word!r}: is no task ({hint_for(word, TASKS, ', '.join(TASKS))})")
    return word


def _program(words: list[str]) -> dict[str, str]:
    return {"sd_cli_path": words[0]} if words else {}


def _shown(name: str, value: Any) -> str:
    """Return a value as text; a header may hold a secret, so it is not shown."""
    return "***" if name == "headers" else value if isinstance(value, str) else json.dumps(value, default=str)
