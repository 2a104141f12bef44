"""Reading one YAML file of model cards: what a card may say, and the line of what is wrong.

A file is `cards: [...]` or one card. Top-level keys that start with `x-` are a place for YAML anchors.
Not covered: which files there are (`cards`), checking a job's values (`constraints`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import yaml

from abstractvision_batch.registry.card_rules import DEFAULT_INPUTS, DEFAULT_OUTPUTS, implied_params, rule_problems
from abstractvision_batch.registry.constraints import closest
from abstractvision_batch.registry.model_card import STANDARD_PARAMS, ModelCard, ParamRule, TaskCard
from abstractvision_batch.types import TASKS

try:
    from yaml import CSafeLoader as SafeLoader
except ImportError:  # PyYAML without libyaml: slower, same result
    from yaml import SafeLoader  # type: ignore[assignment]

#: Aliases make a small file large; this bounds what one may expand to.
MAX_VALUES = 200_000
MAX_DEPTH = 50
DTYPES = ("float32", "float16", "bfloat16")

CARD_KEYS = ("id", "provider", "license", "gated", "tasks", "backends", "notes", "sources", "requires")
TASK_KEYS = ("inputs", "outputs", "params", "requires")
RULE_KEYS = tuple(ParamRule.__dataclass_fields__)
REQUIRES_KEYS = ("base_model_id", "backend")
DIFFUSERS_KEYS = (
    "pipelines", "repo_id", "repo_ids", "path", "revision", "subfolder", "variant", "components", "lora", "rename",
    "dtype", "memory_bytes", "batch_size", "tasks",
)  # fmt: skip

Place = tuple[str | int, ...]
Problem = tuple[Place, str]


def parse_cards(text: bytes, origin: str, *, trusted: bool = False) -> tuple[list[ModelCard], list[str]]:
    """The cards of a file, and a `file:line: what (what would do)` line per fault; no cards where there is one.

    Args:
        text: the file's bytes.
        origin: the file's name in messages.
        trusted: skip what only a person's slip can break; for packaged cards, which a test reads untrusted.
    """
    try:
        if not trusted:
            _refuse_deep_nesting(text)
        data = yaml.load(text, Loader=SafeLoader)
        if trusted:
            return [_build_card(card, origin) for card in _cards_of(data)], []
        problems: list[Problem] = [((), f"expands to more than {MAX_VALUES} values")]
        if _is_small(data):
            problems = [*_duplicate_keys(text), *_file_problems(data)]
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line = mark.line + 1 if mark else 1
        return [], [f"{origin}:{line}: not YAML: {exc.problem or exc.context}"]
    except (yaml.YAMLError, ValueError) as exc:
        return [], [f"{origin}:1: not YAML: {' '.join(str(exc).split())[:200]}"]
    if problems:
        root = yaml.compose(text, Loader=SafeLoader)
        return [], [f"{origin}:{_line_of(root, place)}: {_name_of(place)}{what}" for place, what in problems]
    return [_build_card(card, origin) for card in _cards_of(data)], []


def _cards_of(data: Any) -> list[dict[str, Any]]:
    cards: list[dict[str, Any]] = data.get("cards", [data])
    return cards


def _build_card(data: Mapping[str, Any], origin: str) -> ModelCard:
    tasks = {}
    for task, body in data["tasks"].items():
        declared = {name: _build_rule(name, rule) for name, rule in (body.get("params") or {}).items()}
        tasks[task] = TaskCard(
            task=task,
            inputs=tuple(body.get("inputs") or DEFAULT_INPUTS[task]),
            outputs=tuple(body.get("outputs") or DEFAULT_OUTPUTS[task]),
            params={**implied_params(task), **declared},
            requires=body.get("requires") or {},
        )
    return ModelCard(
        id=data["id"],
        provider=data.get("provider", "huggingface"),
        license=data["license"],
        gated=data.get("gated", False),
        tasks=tasks,
        backends={kind: needs or {} for kind, needs in (data.get("backends") or {}).items()},
        notes=data.get("notes") or "",
        sources=tuple(data.get("sources") or ()),
        requires=data.get("requires") or {},
        origin=origin,
    )


def _build_rule(name: str, data: Mapping[str, Any] | None) -> ParamRule:
    rule = dict(data or {})
    if rule.get("enum") is not None:
        rule["enum"] = tuple(rule["enum"])
    if "type" not in rule:
        bounded = "min" in rule or "max" in rule
        rule["type"] = STANDARD_PARAMS.get(name) or ("int" if "multiple_of" in rule else "number" if bounded else None)
    return ParamRule(**rule)


def _file_problems(data: Any) -> Iterator[Problem]:
    if not isinstance(data, dict):
        yield (), "a card file is a mapping with a list of cards under `cards`, or one card"
        return
    if "cards" not in data:
        yield from _card_problems(data, ())
        return
    others = [key for key in data if key != "cards" and not str(key).startswith("x-")]
    yield from (((key,), "unknown field (only cards, and x-... for anchors)") for key in others)
    if not isinstance(data["cards"], list) or not data["cards"]:
        yield ("cards",), "is not a list of cards"
        return
    seen: set[str] = set()
    for number, card in enumerate(data["cards"]):
        place = ("cards", number)
        if not isinstance(card, dict):
            yield place, "a card is a mapping with id, license and tasks"
            continue
        yield from _card_problems(card, place)
        if isinstance(card.get("id"), str):
            if card["id"] in seen:
                yield (*place, "id"), f"{card['id']!r} is in this file twice (one card per id)"
            seen.add(card["id"])


def _card_problems(card: dict[str, Any], place: Place) -> Iterator[Problem]:
    yield from _unknown_keys(card, CARD_KEYS, place)
    for key in ("id", "license"):
        if key not in card:
            yield place, f"the card has no {key} (add one)"
    for key in ("id", "license", "provider", "notes"):
        if key in card and not (isinstance(card[key], str) and (card[key].strip() or key == "notes")):
            yield (*place, key), "is not a text"
    if not isinstance(card.get("gated", False), bool):
        yield (*place, "gated"), "is neither true nor false"
    if not _is_text_list(card.get("sources") or []):
        yield (*place, "sources"), "is not a list of texts"
    yield from _requires_problems(card, place)
    if not isinstance(card.get("tasks"), dict):
        yield place, f"the card has no tasks (add `tasks:` with some of {', '.join(TASKS)}; {{}} for none)"
    else:
        for task, body in card["tasks"].items():
            yield from _task_problems(task, body, (*place, "tasks", task))
    backends = card.get("backends") or {}
    if not isinstance(backends, dict):
        yield (*place, "backends"), "is not a mapping of backend kinds"
        return
    for kind, needs in backends.items():
        yield from _backend_problems(kind, {} if needs is None else needs, (*place, "backends", kind))


def _task_problems(task: Any, body: Any, place: Place) -> Iterator[Problem]:
    if task not in TASKS:
        yield place, _unknown("task", str(task), TASKS)
        return
    if not isinstance(body, dict):
        yield place, "is not a mapping with params"
        return
    yield from _unknown_keys(body, TASK_KEYS, place)
    yield from _requires_problems(body, place)
    for key in ("inputs", "outputs"):
        if not _is_text_list(body.get(key) or []):
            yield (*place, key), "is not a list of texts"
    params = body.get("params") or {}
    if not isinstance(params, dict):
        yield (*place, "params"), "is not a mapping of parameter names"
        return
    for name, rule in params.items():
        at = (*place, "params", name)
        if not isinstance(name, str) or not isinstance(rule, dict | None):
            yield at, "is not a parameter with a mapping of rules ({} for none)"
            continue
        unknown = list(_unknown_keys(rule or {}, RULE_KEYS, at))
        yield from unknown
        wrong = [] if unknown else list(rule_problems(rule or {}))
        yield from (((*at, key), what) for key, what in wrong)
        if not unknown and not wrong:
            built = _build_rule(name, rule)
            yield from (((*at, key), what) for key, what in rule_problems(rule or {}, built))


def _backend_problems(kind: Any, needs: Any, place: Place) -> Iterator[Problem]:
    if not isinstance(kind, str) or not isinstance(needs, dict):
        yield place, "is not the name of a backend with a mapping of what it needs"
        return
    for key in ("memory_bytes", "batch_size"):
        value = needs.get(key, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            yield (*place, key), "is not a whole number above 0"
    if not isinstance(needs.get("tasks", []), list) or not all(task in TASKS for task in needs.get("tasks", [])):
        yield (*place, "tasks"), f"is not a list of tasks ({', '.join(TASKS)})"
    if kind != "diffusers":
        return
    yield from _unknown_keys(needs, DIFFUSERS_KEYS, place)
    if needs.get("dtype", "float32") not in DTYPES:
        yield (*place, "dtype"), f"is not one of {', '.join(DTYPES)}"
    for key in ("repo_id", "path", "revision", "subfolder", "variant", "lora"):
        if key in needs and not isinstance(needs[key], str):
            yield (*place, key), "is not a text"
    for key in ("repo_ids", "rename", "components"):
        if not isinstance(needs.get(key, {}), dict) or not all(isinstance(v, str) for v in needs.get(key, {}).values()):
            yield (*place, key), "is not a mapping of texts"
    pipelines = needs.get("pipelines", {})
    if not isinstance(pipelines, dict):
        yield (*place, "pipelines"), "is not a mapping of task to pipeline class"
        return
    for task, name in pipelines.items():
        if task not in (*TASKS, "inpaint"):
            yield (*place, "pipelines", task), _unknown("task", str(task), (*TASKS, "inpaint"))
        elif not isinstance(name, str):
            yield (*place, "pipelines", task), "is not the name of a Diffusers pipeline class"


def _requires_problems(body: dict[str, Any], place: Place) -> Iterator[Problem]:
    requires = body.get("requires") or {}
    if not isinstance(requires, dict) or not all(isinstance(value, str) for value in requires.values()):
        yield (*place, "requires"), "is not a mapping of texts"
    else:
        yield from _unknown_keys(requires, REQUIRES_KEYS, (*place, "requires"))


def _unknown_keys(data: dict[Any, Any], known: Collection[str], place: Place) -> Iterator[Problem]:
    for key in data:
        if key not in known:
            yield (*place, key), _unknown("field", str(key), known)


def _unknown(what: str, name: str, known: Collection[str]) -> str:
    guess = closest(name, known)
    return f"unknown {what} ({f'did you mean {guess}?' if guess else 'known: ' + ', '.join(known)})"


def _is_text_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) and item for item in value)


def _refuse_deep_nesting(text: bytes) -> None:
    """Composing recurses in C, and a hundred thousand brackets end the process; reading events does not."""
    depth = 0
    for event in yaml.parse(text, Loader=SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} deep")


def _is_small(data: Any) -> bool:
    """Whether the document stays small when every alias is written out; a recursive alias never ends."""
    waiting, seen = [data], 0
    while waiting:
        value = waiting.pop()
        seen += 1
        if seen > MAX_VALUES:
            return False
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return True


def _duplicate_keys(text: bytes) -> Iterator[Problem]:
    """YAML lets the last of two equal keys win; in a card it is a slip."""
    waiting: list[tuple[Place, yaml.Node | None]] = [((), yaml.compose(text, Loader=SafeLoader))]
    visited: set[int] = set()
    while waiting:
        place, node = waiting.pop()
        if node is None or id(node) in visited:
            continue
        visited.add(id(node))
        if isinstance(node, yaml.MappingNode):
            keys = set()
            for key, value in node.value:
                if key.value in keys and key.value != "<<":
                    yield (*place, key.value), "is here twice (keep one)"
                keys.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
                waiting.append(((*place, key.value), value))
        elif isinstance(node, yaml.SequenceNode):
            waiting.extend(((*place, number), value) for number, value in enumerate(node.value))


def _line_of(node: yaml.Node | None, place: Place) -> int:
    """The line of a key or item; of the innermost thing on the way to it where it is merged in by `<<`."""
    line = 1 if node is None else node.start_mark.line + 1
    for step in place:
        if isinstance(node, yaml.MappingNode):
            # From the end: of two equal keys the last is the one that counts.
            pairs = [(key, value) for key, value in reversed(node.value) if key.value == str(step)]
            if not pairs:
                return line
            line, node = pairs[0][0].start_mark.line + 1, pairs[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line + 1
    return line


def _name_of(place: Place) -> str:
    steps = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in place]
    return "".join(steps).lstrip(".") + ": " if steps else ""
