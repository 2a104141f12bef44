"""Dynamic prompts: one row that stands for several."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from typer.testing import CliRunner

from abstractvision_batch.cli.app import app
from abstractvision_batch.errors import SpecError
from tests.support.planning import BuiltPlan, Planner


def _build(planner: Planner, source: Any, grammar: Any = "dynamic", **sections: Any) -> BuiltPlan:
    return planner.build(source, prompts={"grammar": grammar}, **sections)


def _problem(planner: Planner, source: Any, grammar: Any = "dynamic") -> str:
    with pytest.raises(SpecError) as caught:
        _build(planner, source, grammar)
    (problem,) = caught.value.problems
    return problem.removeprefix("<spec>: ")


def test_a_prompt_stands_for_all_its_combinations(planner: Planner) -> None:
    plan = _build(planner, ["a {red|blue} fox", "an owl, {2$$ and $$wise|old|grey}"])

    assert plan.column("prompt") == [
        "a red fox",
        "a blue fox",
        *(f"an owl, {one} and {other}" for one, other in PAIRS),
    ]
    assert (plan.summary.prompts, len(set(plan.column("prompt_id")))) == (8, 8)


PAIRS = [("wise", "old"), ("wise", "grey"), ("old", "wise"), ("old", "grey"), ("grey", "wise"), ("grey", "old")]


def test_a_further_option_only_adds_and_a_plain_prompt_keeps_its_id(planner: Planner) -> None:
    plain = planner.build(["a fox", "an owl (big:1.2)"])
    few = _build(planner, ["a fox", "an owl (big:1.2)", "a {red|blue} cat"])
    more = _build(planner, ["a fox", "an owl (big:1.2)", "a {green|red|blue} cat"])

    ids = [set(plan.column("request_id")) for plan in (plain, few, more)]
    assert ids[0] < ids[1] < ids[2]


def test_drawn_prompts_are_different_and_the_same_every_time_and_more_of_them_only_add(planner: Planner) -> None:
    row = ["a {red|blue|green|white} {fox|owl|cat}"]
    three, five = (_build(planner, row, {"mode": "random", "n": n}).column("prompt") for n in (3, 5))

    assert five[:3] == three == _build(planner, row, {"mode": "random", "n": 3}).column("prompt")
    assert len(set(five)) == 5
    assert _build(planner, row, {"mode": "random", "n": 3}, params={"seed": 8}).column("prompt") != three
    assert _build(planner, ["{a|b}"], {"mode": "random", "n": 9}).summary.prompts == 2
    assert _build(planner, row, {"mode": "random"}).summary.prompts == 1


def test_choices_that_are_drawn_within_combinations_are_the_same_every_time(planner: Planner) -> None:
    row = ["a {red|blue} {~fox|owl|cat|dog|bee}"]

    assert _build(planner, row, {"n": 4}).column("prompt") == _build(planner, row, {"n": 4}).column("prompt")


def test_wildcards_are_read_from_their_folder_and_count_by_content(planner: Planner) -> None:
    planner.write("cards/colour.txt", "red\n# none\nblue\n")
    planner.write("cards/deep/beasts.yaml", "small: [fox, '{red|grey} cat']\n")
    grammar = {"wildcards": "cards"}
    source = ["a __colour__ __deep/small__"]
    plan = _build(planner, source, grammar)

    assert set(plan.column("prompt")) == {
        f"a {colour} {beast}" for colour in ("blue", "red") for beast in ("fox", "red cat", "grey cat")
    }
    planner.write("cards/colour.txt", "red\nblue\ngreen\n")
    grown = _build(planner, source, grammar)
    assert set(plan.column("request_id")) < set(grown.column("request_id"))
    assert grown.summary.prompts_digest != plan.summary.prompts_digest


@pytest.mark.parametrize(
    ("prompt", "problem"),
    [
        ("a {red|blue fox", "the prompt is not in the grammar of dynamic prompts, from '{red|blue fox' on"),
        ("a __colour__", "no values for the wildcard __colour__ (write prompts.grammar: {wildcards: a folder})"),
        ("{|a}", "one of the prompts that it stands for is empty"),
        ("{1-9$$a|b|c|d|e|f|g|h|i}", "the prompt stands for more than 10,000 (prompts.grammar: "),
    ],
)
def test_a_prompt_that_cannot_be_expanded_is_refused_with_its_place(
    planner: Planner, prompt: str, problem: str
) -> None:
    assert _problem(planner, [prompt]).startswith(f"prompts.source[0]: {problem}")


def test_wildcards_that_lead_to_themselves_are_refused(planner: Planner) -> None:
    planner.write("cards/a.txt", "x __b__\n")
    planner.write("cards/b.txt", "y __a__\n")

    assert "the prompt's wildcards lead to themselves" in _problem(planner, ["__a__"], {"wildcards": "cards"})


def test_a_folder_of_wildcards_that_is_not_there_is_refused(planner: Planner) -> None:
    assert _problem(planner, ["a"], {"wildcards": "no"}).startswith("prompts.grammar.wildcards: ")
    assert _problem(planner, ["a"], "dinamic").startswith('prompts.grammar: "dinamic" is not dynamic, or a mapping')


def test_a_prompt_that_looks_like_it_is_noted_where_nothing_expands_it(planner: Planner) -> None:
    plan = planner.build(["a {red|blue} fox", "a __style__ owl", "{2$$a|b}", "a {plain} set", "snake__case__name"])

    assert plan.summary.notes == (
        "3 prompts look like dynamic prompts, as {red|blue}, and the model reads that as it stands "
        "(prompts.grammar: dynamic makes several prompts of it)",
    )
    assert _build(planner, ["a {red|blue} fox"]).summary.notes == ()


def test_without_the_library_the_command_that_installs_it_is_said(
    planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "dynamicprompts"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "dynamicprompts", None)
    spec = planner.write(
        "spec.yaml",
        "name: a\nmodel: avbatch/procedural\nbackend: {kind: procedural}\noutput: {path: run}\n"
        "prompts: {source: ['{a|b}'], grammar: dynamic}\n",
    )

    result = CliRunner().invoke(app, ["validate", str(planner.folder / spec)])

    assert result.exit_code == 3
    assert "needs dynamicprompts (run: pip install" in result.output
