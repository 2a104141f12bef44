from __future__ import annotations

import copy
import json
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from abstractvision_batch.errors import SpecError
from abstractvision_batch.registry.card_file import parse_cards
from abstractvision_batch.registry.cards import load_cards
from abstractvision_batch.registry.model_card import ModelCard

CARD = """\
id: me/model
license: mit
tasks:
  text_to_image:
    params:
      width: {default: 512, multiple_of: 8}
backends:
  diffusers: {pipelines: {text_to_image: StableDiffusionPipeline}}
"""


def write_card(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def problems_of(*paths: Path) -> tuple[str, ...]:
    with pytest.raises(SpecError) as caught:
        load_cards(paths)
    return caught.value.problems


def test_a_users_card_joins_the_packaged_ones(tmp_path: Path) -> None:
    cards = load_cards([write_card(tmp_path, CARD)])

    assert "avbatch/shapes64" in cards
    assert cards["me/model"].origin == str(tmp_path / "mine.yaml")
    assert cards["me/model"].tasks["text_to_image"].params["width"].multiple_of == 8


def test_a_users_card_wins_over_the_packaged_one_and_leaves_it_for_the_next_caller(tmp_path: Path) -> None:
    write_card(tmp_path, CARD.replace("me/model", "avbatch/shapes64"))

    assert load_cards([tmp_path])["avbatch/shapes64"].license == "mit"
    assert load_cards()["avbatch/shapes64"].license == "apache-2.0"


def test_the_later_of_two_folders_wins(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_card(tmp_path / name, CARD.replace("mit", name))

    assert load_cards([tmp_path / "one", tmp_path / "two"])["me/model"].license == "two"


def test_the_same_id_twice_in_one_folder_is_an_error(tmp_path: Path) -> None:
    write_card(tmp_path, CARD, "a.yaml")
    write_card(tmp_path, CARD, "b.yaml")

    (problem,) = problems_of(tmp_path)

    assert problem == f"{tmp_path / 'b.yaml'}: me/model: {tmp_path / 'a.yaml'} has this id too (one card per id)"


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        (CARD.replace("license", "licence"), 1, "license: required field is missing (the licence of"),
        (CARD.replace("license", "licence"), 2, "licence: unknown field (did you mean license?)"),
        (CARD.replace("multiple_of", "multipleof"), 6, "multipleof: unknown field (did you mean multiple_of?)"),
        (CARD.replace("  text_to_image:\n", "  text_to_imag:\n"), 4, "unknown task (did you mean text_to_image?)"),
        (CARD.replace("default: 512", "default: 500"), 6, "default: 500 is not a multiple of 8 (nearest: 496, 504)"),
        (CARD.replace("default: 512", "default: wide"), 6, "default: 'wide' is not a whole number"),
        (CARD.replace("multiple_of: 8", "required: maybe"), 6, 'required: "maybe" is not true or false'),
        (CARD.replace("multiple_of: 8", "min: 600, max: 500"), 6, "max: 500 is below min 600"),
        (CARD.replace("multiple_of: 8", "enum: [1, 2]"), 6, "default: 512 is not allowed (allowed: one of 1, 2)"),
        (
            CARD.replace("width: {default: 512,", "width: {supported: false,"),
            6,
            "supported: is false, so no other rule",
        ),
        (CARD.replace("{pipelines", "{dtype: fp16, pipelines"), 8, 'dtype: "fp16" is not one of float32,'),
        (CARD.replace("{pipelines", "{batch_size: 0, pipelines"), 8, "batch_size: 0 is not an integer of at least 1"),
        (CARD.replace("{pipelines", "{pipeline"), 8, "pipeline: unknown field (did you mean pipelines?)"),
        (CARD + "license: gpl\n", 9, "license: written twice (first at 2:1; keep one)"),
        ("cards:\n  - id: a\n    license: mit\n", 2, "tasks: required field is missing (some of text_to_image,"),
        ("cards: []\n", 1, "cards: a list of 0 is not a non-empty list"),
        ("- id: a\n", 1, "a card file is a mapping"),
        ("id: [1\n", 2, "not YAML:"),
        ("a: !!python/object/apply:os.system [id]\n", 1, 'tag "tag:yaml.org,2002:python/object/apply:os.system"'),
        (CARD + "origin: elsewhere.yaml\n", 9, "origin: is not written in a file"),
        (CARD + "<<: [1]\n", 9, "<<"),
    ],
)
def test_a_malformed_card_is_reported_with_file_line_and_what_would_do(
    tmp_path: Path, text: str, line: int, what: str
) -> None:
    path = write_card(tmp_path, text)

    problems = problems_of(tmp_path)

    assert any(problem.startswith(f"{path}:{line}:") and what in problem for problem in problems), problems


def test_all_faults_of_all_files_are_reported_together(tmp_path: Path) -> None:
    write_card(tmp_path, CARD.replace("license", "licence"), "a.yaml")
    write_card(tmp_path, CARD.replace("{default", "{defualt"), "b.yaml")

    assert {Path(problem.split(":")[0]).name for problem in problems_of(tmp_path)} == {"a.yaml", "b.yaml"}


def test_every_fault_of_a_card_is_reported_with_its_line_and_column(tmp_path: Path) -> None:
    text = CARD.replace("license", "licence").replace("multiple_of: 8}", "max: 4, min: 600}").replace("{text", "{txt")
    path = write_card(tmp_path, text + "notes: 7\nvocabulary: red\n")

    assert problems_of(path) == (
        f"{path}:1:1: license: required field is missing (the licence of the weights, as the hub spells it)",
        f"{path}:2:1: licence: unknown field (did you mean license?)",
        f"{path}:6:29: tasks.text_to_image.params.width.max: 4 is below min 600",
        f"{path}:8:27: backends.diffusers.pipelines.txt_to_image: unknown task (did you mean text_to_image?)",
        f"{path}:9:1: notes: 7 is not text (quote it)",
        f'{path}:10:1: vocabulary: "red" is not a list, each non-empty text',
    )


def test_mappings_are_merged_as_yaml_says(tmp_path: Path) -> None:
    rules = "{<<: [{min: 1, max: 9}, {min: 2, default: 4}], max: 8}"
    path = write_card(tmp_path, CARD.replace("{default: 512, multiple_of: 8}", rules))

    width = load_cards([path])["me/model"].tasks["text_to_image"].params["width"]

    assert (width.min, width.max, width.default) == (1, 8, 4)


def test_an_id_twice_in_one_file_is_an_error(tmp_path: Path) -> None:
    one = "  - id: a/b\n    license: mit\n    tasks: {}\n"
    path = write_card(tmp_path, "cards:\n" + one + one)

    assert problems_of(path) == (f"{path}:5:5: cards[1].id: 'a/b' is in this file twice (one card per id)",)


def test_a_small_file_that_expands_to_a_large_one_is_refused_at_once(tmp_path: Path) -> None:
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    path = write_card(tmp_path, "\n".join(["a0: &a0 lol", *levels]))
    started = time.process_time()

    assert problems_of(path) == (f"{path}:7:10: more than 200000 keys and values, aliases counted",)
    assert time.process_time() - started < 2


def test_a_file_that_refers_to_itself_is_refused(tmp_path: Path) -> None:
    path = write_card(tmp_path, "cards: &a [*a]")

    assert "*a refers to nothing written before it" in problems_of(path)[0]


def test_deep_nesting_is_refused_and_not_followed(tmp_path: Path) -> None:
    path = write_card(tmp_path, "[" * 100_000)

    assert "nested deeper than" in problems_of(path)[0]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00garbage\x00", b"\x89PNG\r\n\x1a\n\x00\x00", b"id: caf\xe9\n"])
def test_bytes_that_are_no_text_are_reported_and_not_raised(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "binary.yaml"
    path.write_bytes(content)

    assert problems_of(path)[0].startswith(f"{path}:")


def test_a_missing_path_and_an_empty_folder_are_errors(tmp_path: Path) -> None:
    assert "absent.yaml: no such file" in problems_of(tmp_path / "absent.yaml")[0]
    assert "no model cards in this folder" in problems_of(tmp_path)[0]


def test_a_base_model_without_a_card_is_an_error(tmp_path: Path) -> None:
    path = write_card(tmp_path, CARD + "requires: {base_model_id: no/such}\n")

    assert problems_of(path) == (f"{path}: me/model: requires.base_model_id: no card has the id 'no/such'",)


def test_a_card_survives_json(tmp_path: Path) -> None:
    for card in load_cards([write_card(tmp_path, CARD)]).values():
        assert ModelCard.from_json(json.loads(json.dumps(card.to_json()))) == card


def test_inputs_outputs_and_the_required_inputs_are_implied_by_the_task(tmp_path: Path) -> None:
    task = load_cards([write_card(tmp_path, CARD)])["me/model"].tasks["text_to_image"]

    assert (task.inputs, task.outputs) == (("text",), ("image",))
    assert task.params["prompt"].required
    assert not task.params["seed"].required


def test_a_backend_runs_the_tasks_that_it_has_a_pipeline_for(tmp_path: Path) -> None:
    text = CARD.replace("tasks:\n", "tasks:\n  image_to_image: {}\n  text_to_video: {}\n")
    card = load_cards([write_card(tmp_path, text.replace("{text_to_image:", "{inpaint: X, text_to_image:"))])[
        "me/model"
    ]

    assert card.backends_for("text_to_image") == ("diffusers",)
    assert card.backends_for("image_to_image") == ("diffusers",)
    assert card.backends_for("text_to_video") == ()
    assert card.backends_for("image_to_video") == ()


def places_in(data: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a document."""
    pairs = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [place for key, value in list(pairs) for place in [(data, key), *places_in(value)]]


JUNK: list[Any] = [None, True, -1, 0, 1.5, "", "x", [], ["x"], [["x"]], [{}], {}, {"x": 1}, {1: None}, {"x": {"y": []}}]
JUNK += [float("nan"), float("inf"), 10**40]


@given(where=st.integers(0, 10**6), junk=st.sampled_from(JUNK), as_key=st.booleans())
def test_whatever_stands_in_any_place_of_a_card_it_is_read_or_reported(where: int, junk: object, as_key: bool) -> None:
    document = copy.deepcopy(WIDE_CARD)
    places = places_in(document)
    container, key = places[where % len(places)]
    if as_key and isinstance(container, dict) and isinstance(junk, str | int | float | None):
        container[junk] = container.pop(key)
    else:
        container[key] = junk

    cards, problems = parse_cards(yaml.safe_dump(document), "x.yaml")

    assert bool(cards) != bool(problems)
    assert all(problem.startswith("x.yaml:") for problem in problems)
    assert all(card == ModelCard.from_json(card.to_json()) for card in cards)


WIDE_CARD: dict[str, Any] = {
    "x-anchors": [1],
    "cards": [
        {
            "id": "a/b",
            "provider": "p",
            "license": "mit",
            "gated": False,
            "notes": "n",
            "sources": ["s"],
            "requires": {"backend": "diffusers"},
            "tasks": {
                "text_to_image": {
                    "inputs": ["text"],
                    "outputs": ["image"],
                    "requires": {"backend": "diffusers"},
                    "params": {
                        "width": {
                            "required": False,
                            "default": 65,
                            "min": 1,
                            "max": 129,
                            "multiple_of": 8,
                            "remainder": 1,
                        },
                        "size": {"type": "string", "enum": ["a", "b"], "default": "a", "description": "d"},
                        "steps": {"const": 4},
                        "strength": {"supported": False},
                    },
                }
            },
            "backends": {
                "diffusers": {
                    "pipelines": {"text_to_image": "P"},
                    "rename": {"steps": "s"},
                    "dtype": "float16",
                    "memory_bytes": 1,
                    "tasks": ["text_to_image"],
                    "path": "p",
                }
            },
        }
    ],
}


def test_a_card_that_an_earlier_version_recorded_is_the_same_text_when_it_is_written_again() -> None:
    cards = list(_cards_of_old_runs())

    assert cards
    assert [
        card
        for card in cards
        if json.dumps(ModelCard.from_json(card).to_json(), sort_keys=True) != json.dumps(card, sort_keys=True)
    ] == []


def _cards_of_old_runs() -> Iterator[dict[str, Any]]:
    for path in (Path(__file__).parents[1] / "old_runs").rglob("*.tar.xz"):
        with tarfile.open(path) as archive:
            for member in archive:
                if member.name.endswith("run.json") and (file := archive.extractfile(member)) is not None:
                    yield json.load(file)["card"]


@pytest.mark.parametrize("wrong", [{"tasks": 3}, {"backends": {"diffusers": {"batch_size": "many"}}}, {"id": None}])
def test_a_recorded_card_that_was_tampered_with_is_a_value_error(wrong: dict[str, Any]) -> None:
    recorded = load_cards()["avbatch/shapes64"].to_json() | {"of_a_later_version": 1}

    assert ModelCard.from_json(recorded) == load_cards()["avbatch/shapes64"]
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ModelCard.from_json(recorded | wrong)
