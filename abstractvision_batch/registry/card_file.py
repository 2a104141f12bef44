"""Reading one YAML file of model cards, and finding the line of what is wrong with it.

Not covered: which files there are (`cards`), what a card may say (`card_schema`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from abstractvision_batch.registry.capabilities_json import (
    cards_of_capabilities,
    is_capabilities_json,
    validate_capabilities_json,
)
from abstractvision_batch.registry.card_rules import DEFAULT_INPUTS, DEFAULT_OUTPUTS, build_rule, implied_params
from abstractvision_batch.registry.card_schema import Place, Problem, file_problems
from abstractvision_batch.registry.model_card import ModelCard, TaskCard

try:
    from yaml import CSafeLoader as SafeLoader
except ImportError:  # PyYAML without libyaml: slower, same result
    from yaml import SafeLoader  # type: ignore[assignment]

#: Aliases make a small file large; this bounds what one may expand to.
MAX_VALUES = 200_000
MAX_DEPTH = 50


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
            if is_capabilities_json(data):
                return _cards_of_asset(data, origin)
            problems = [*_duplicate_keys(text), *file_problems(data)]
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


def _cards_of_asset(data: Any, origin: str) -> tuple[list[ModelCard], list[str]]:
    """Return the models of the older library's asset as cards; a fault has the name of its place, and no line."""
    try:
        validate_capabilities_json(data)
    except ValueError as exc:
        return [], [f"{origin}: {exc}"]
    cards = cards_of_capabilities(data)
    faults = [f"{origin}: {_name_of(place)}{what}" for place, what in file_problems({"cards": cards})]
    return ([], faults) if faults else ([_build_card(card, origin) for card in cards], [])


def _cards_of(data: Any) -> list[dict[str, Any]]:
    cards: list[dict[str, Any]] = data.get("cards", [data])
    return cards


def _build_card(data: Mapping[str, Any], origin: str) -> ModelCard:
    tasks = {}
    for task, body in data["tasks"].items():
        declared = {name: build_rule(name, rule) for name, rule in (body.get("params") or {}).items()}
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
        vocabulary=tuple(data.get("vocabulary") or ()),
        example_prompt=data.get("example_prompt") or "",
        origin=origin,
    )


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
