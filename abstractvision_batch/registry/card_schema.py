"""What a file of model cards may say: fields, tasks and parameters, each fault with its place in the document.

A file is `cards: [...]` or one card. Top-level keys that start with `x-` are a place for YAML anchors.
Not covered: reading YAML (`card_file`), rules of one parameter (`card_rules`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from abstractvision_batch.registry.card_rules import build_rule, rule_problems
from abstractvision_batch.registry.constraints import closest
from abstractvision_batch.registry.model_card import ParamRule
from abstractvision_batch.registry.output_size import output_size_problems
from abstractvision_batch.types import TASKS

DTYPES = ("float32", "float16", "bfloat16")

CARD_KEYS = (
    "id",
    "provider",
    "license",
    "gated",
    "tasks",
    "backends",
    "notes",
    "sources",
    "requires",
    "vocabulary",
    "example_prompt",
)
TASK_KEYS = ("inputs", "outputs", "params", "requires")
RULE_KEYS = tuple(ParamRule.__dataclass_fields__)
REQUIRES_KEYS = ("base_model_id", "backend")
DIFFUSERS_KEYS = (
    "pipelines", "repo_id", "repo_ids", "path", "revision", "subfolder", "variant", "components", "lora", "rename",
    "dtype", "memory_bytes", "batch_size", "tasks", "price", "output_size", "packages",
)  # fmt: skip

SDCPP_KEYS = (
    "guidance",
    "image_input",
    "flow_shift",
    "qwen_image_zero_cond_t",
    "memory_bytes",
    "batch_size",
    "tasks",
    "price",
)
SDCPP_WORDS = {"guidance": ("cfg", "distilled", "none"), "image_input": ("init", "reference")}

#: Of a request, in USD; `source` says where it was read, and when.
PRICE_KEYS = (
    "request_usd", "million_text_tokens_usd", "million_image_tokens_usd", "million_output_tokens_usd", "source",
)  # fmt: skip

Place = tuple[str | int, ...]
Problem = tuple[Place, str]


def file_problems(data: Any) -> Iterator[Problem]:
    """Yield what is wrong with a document, as (place, message); nothing if cards can be built from it."""
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
    for key in ("id", "license", "provider", "notes", "example_prompt"):
        if key in card and not (isinstance(card[key], str) and (card[key].strip() or key == "notes")):
            yield (*place, key), "is not a text"
    if not isinstance(card.get("gated", False), bool):
        yield (*place, "gated"), "is neither true nor false"
    for key in ("sources", "vocabulary"):
        if not _is_text_list(card.get(key) or []):
            yield (*place, key), "is not a list of texts"
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
            built = build_rule(name, rule)
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
    if "price" in needs:
        yield from _price_problems(needs["price"], (*place, "price"))
    if kind == "sdcpp":
        yield from _unknown_keys(needs, SDCPP_KEYS, place)
        for key, words in SDCPP_WORDS.items():
            if needs.get(key, words[0]) not in words:
                yield (*place, key), f"is not one of {', '.join(words)}"
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
    if not _is_text_list(needs.get("packages") or []):
        yield (*place, "packages"), "is not a list of texts"
    sizes = needs.get("output_size", {})
    if not isinstance(sizes, dict):
        yield (*place, "output_size"), "is not a mapping of task to how its size follows"
        sizes = {}
    for task, rule in sizes.items():
        if task not in (*TASKS, "inpaint"):
            yield (*place, "output_size", task), _unknown("task", str(task), (*TASKS, "inpaint"))
        yield from (((*place, "output_size", task, *key), what) for key, what in output_size_problems(rule))
    pipelines = needs.get("pipelines", {})
    if not isinstance(pipelines, dict):
        yield (*place, "pipelines"), "is not a mapping of task to pipeline class"
        return
    for task, name in pipelines.items():
        if task not in (*TASKS, "inpaint"):
            yield (*place, "pipelines", task), _unknown("task", str(task), (*TASKS, "inpaint"))
        elif not isinstance(name, str):
            yield (*place, "pipelines", task), "is not the name of a Diffusers pipeline class"


def _price_problems(price: Any, place: Place) -> Iterator[Problem]:
    if not isinstance(price, dict):
        yield place, "is not a mapping with request_usd"
        return
    yield from _unknown_keys(price, PRICE_KEYS, place)
    for key in ("request_usd", "source"):
        if key not in price:
            yield place, f"the price has no {key} (add one)"
    if "source" in price and not (isinstance(price["source"], str) and price["source"].strip()):
        yield (*place, "source"), "is not a text"
    amounts = {key: price[key] for key in PRICE_KEYS[:4] if key in price}
    for key, amount in amounts.items():
        if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 <= amount <= 1_000_000:
            yield (*place, key), "is not an amount of USD"
    if 1 < len(amounts) < 4 or (len(amounts) == 1 and "request_usd" not in amounts):
        yield place, "some tokens have a price and others none (price text, image and output tokens, or none)"


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
