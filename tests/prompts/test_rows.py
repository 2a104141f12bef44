"""From rows to prompts: fields, pass-through columns, ids, per-row parameters, filters and their mistakes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.planning import Planner


def test_columns_that_feed_no_field_pass_through_under_their_own_or_a_new_name(planner: Planner) -> None:
    planner.write("p.csv", "prompt,kind,note,rest\na,x,n,r\n")
    plan = planner.build("p.csv", prompts={"drop": ["rest"], "rename": {"note": "remark"}})

    assert plan.schema.names[-2:] == ["kind", "remark"]
    assert plan.rows[0]["remark"] == "n"


def test_a_column_that_meets_a_plan_column_gets_another_name_with_a_note(planner: Planner) -> None:
    planner.write("p.csv", "prompt,Status,source_model,model\na,x,z,y\n")

    plan = planner.build("p.csv")

    assert plan.rows[0]["source_Status"] == "x"
    assert (plan.rows[0]["source_model"], plan.rows[0]["source_model_"]) == ("z", "y")
    assert plan.rows[0]["model"] == "avbatch/procedural"
    assert plan.summary.notes[0] == (
        "column 'Status' meets the plan's own 'status' and is called 'source_Status' (prompts.rename names it)"
    )


def test_a_column_that_meets_a_plan_column_is_refused_where_the_spec_speaks_of_it(planner: Planner) -> None:
    planner.write("p.csv", "prompt,Status,model,n,N\na,x,y,1,2\n")

    problems = planner.problems("p.csv", prompts={"where": "Status == 'x'", "template": "{{ prompt }} {{model}}"})

    assert "column 'Status' meets the plan's own 'status' (rename: {Status: source_Status}, or drop it)" in problems[0]
    assert "column 'model' meets" in problems[1]
    assert "column 'N' differs from 'n' by case only" in problems[2]
    assert [problem.partition(": column")[0] for problem in problems] == ["<spec>: prompts.source"] * 3


def test_a_new_name_that_meets_a_plan_column_is_the_mistake_of_the_renaming(planner: Planner) -> None:
    planner.write("p.csv", "prompt,kind,source_seed\na,x,y\n")

    problems = planner.problems("p.csv", prompts={"rename": {"kind": "seed"}})

    assert problems == (
        "<spec>: prompts.rename.kind: column 'kind' meets the plan's own 'seed' "
        "(rename: {kind: source_seed_}, or drop it)",
    )


def test_a_named_column_that_is_missing_is_placed_in_the_spec_with_a_suggestion(planner: Planner) -> None:
    planner.write("p.csv", "Prompt,ident\na,1\n")

    problems = planner.problems("p.csv", prompts={"fields": {"prompt": "promt", "id": "iden"}, "drop": ["identt"]})

    assert problems == (
        "<spec>: prompts.fields.prompt: the prompts have no column 'promt' "
        "(did you mean Prompt? columns: Prompt, ident)",
        "<spec>: prompts.fields.id: the prompts have no column 'iden' (did you mean ident? columns: Prompt, ident)",
        "<spec>: prompts.drop[0]: the prompts have no column 'identt' (did you mean ident? columns: Prompt, ident)",
    )


def test_without_a_prompt_column_the_columns_are_listed(planner: Planner) -> None:
    planner.write("p.csv", "sentence,ident\na,1\n")

    (problem, *_) = planner.problems("p.csv")

    assert "no column feeds the prompt" in problem
    assert "columns: sentence, ident" in problem


@pytest.mark.parametrize("header", ["Prompt,n", "PROMPT,caption", "n,caption", "Text,n"])
def test_a_column_that_is_called_like_a_prompt_is_one_with_a_note(planner: Planner, header: str) -> None:
    planner.write("p.csv", f"{header}\na,b\n")

    plan = planner.build("p.csv")

    name = next(name for name in header.split(",") if name.casefold() in ("prompt", "caption", "text"))
    assert plan.column("prompt") == ["b" if header.startswith("n,") else "a"]
    assert plan.summary.notes[0].startswith(f"column {name!r} is taken for the prompt")


def test_two_columns_that_are_called_like_a_prompt_are_not_guessed_between(planner: Planner) -> None:
    planner.write("p.csv", "caption,text\na,b\n")

    assert "no column feeds the prompt" in planner.problems("p.csv")[0]


def test_a_template_needs_no_column_that_is_called_like_a_prompt(planner: Planner) -> None:
    planner.write("p.csv", "Caption,n\na,1\n")

    plan = planner.build("p.csv", prompts={"template": "x {{ n }}"})

    assert (plan.rows[0]["prompt"], plan.rows[0]["Caption"]) == ("x 1", "a")
    assert plan.summary.notes == ()


def test_ids_are_row_numbers_of_the_dataset_or_the_id_column(planner: Planner) -> None:
    planner.write("p.csv", "prompt,kind\na,x\nb,y\nc,x\n")

    assert planner.build("p.csv", prompts={"where": "kind == 'x'"}).column("prompt_id") == ["000000", "000002"]
    assert planner.build("p.csv", prompts={"fields": {"id": "prompt"}}).column("prompt_id") == ["a", "b", "c"]


def test_repeated_ids_name_both_rows(planner: Planner) -> None:
    planner.write("p.csv", "id,prompt\nx,a\ny,b\nx,c\ny,d\n")

    assert planner.problems("p.csv") == (
        "p.csv:4: id 'x' is that of p.csv:2 too (ids must be unique)",
        "p.csv:5: id 'y' is that of p.csv:3 too (ids must be unique)",
    )


def test_an_empty_id_is_an_error(planner: Planner) -> None:
    assert "p.csv:3: id: no id" in planner.problems(planner.write("p.csv", "id,prompt\nx,a\n,b\n"))[0]


def test_inline_rows_may_be_texts_or_mappings(planner: Planner) -> None:
    plan = planner.build(["a fox", {"prompt": "a cat", "steps": 3, "kind": "pet"}], params={"steps": 1})

    assert plan.column("prompt") == ["a fox", "a cat"]
    assert plan.column("steps") == [1, 3]
    assert plan.column("kind") == [None, "pet"]
    assert planner.problems(["a", " "])[0].startswith("<spec>: prompts.source[1]: prompt: the prompt is empty")


def test_a_row_sets_its_own_parameters(planner: Planner) -> None:
    planner.write(
        "p.csv", "prompt,width,height,steps,guidance_scale,negative_prompt,seed\na,64,32,9,2.5,blurry,5\nb,,,30.0,,,\n"
    )
    plan = planner.build(
        "p.csv",
        params={"width": 128, "height": 256, "guidance_scale": 1, "negative_prompt": "dark"},
        samples_per_prompt=2,
    )

    first, second, third, _ = plan.rows
    assert [first[n] for n in ("width", "height", "steps", "guidance_scale", "negative_prompt", "seed")] == [
        64, 32, 9, 2.5, "blurry", 5,
    ]  # fmt: skip
    assert second["seed"] == 6
    assert [third[n] for n in ("width", "height", "steps", "guidance_scale", "negative_prompt")] == [
        128, 256, 30, 1.0, "dark",
    ]  # fmt: skip
    assert 0 <= third["seed"] < 2**31


@pytest.mark.parametrize(
    ("column", "cell", "expected"),
    [
        ("steps", "many", "'many' is not a whole number"),
        ("steps", "2.5", "2.5 is not a whole number"),
        ("steps", "0", "0 should be greater than or equal to 1"),
        ("steps", "9" * 5000, "is not a whole number"),
        ("steps", "1e400", "is not a whole number"),
        ("width", "7", "7 is below the minimum 8"),
        ("guidance_scale", "nan", "nan is not a number"),
        ("guidance_scale", "-1", "should be greater than or equal to 0"),
        ("seed", "-1", "-1 is not between 0 and"),
        ("seed", str(2**63), "is not between 0 and"),
        ("seed", str(2**63 - 1), "leaves no room"),
        ("strength", "0.5", "no parameter strength for text_to_image"),
        ("fps", "8", "no parameter fps for text_to_image"),
    ],
)
def test_a_wrong_cell_is_named_with_file_line_and_column(
    planner: Planner, column: str, cell: str, expected: str
) -> None:
    (problem,) = planner.problems(planner.write("p.csv", f"prompt,{column}\na,\nb,{cell}\n"))

    assert problem.startswith(f"p.csv:3: {column}: ")
    assert expected in problem


@pytest.mark.parametrize(("value", "expected"), [(True, "true is not a whole number"), ([3], "is not a number")])
def test_a_json_value_of_another_kind_is_not_a_number(planner: Planner, value: Any, expected: str) -> None:
    assert expected in planner.problems([{"prompt": "a", "steps": 1}, {"prompt": "b", "steps": value}])[0]


def test_a_swept_parameter_may_not_come_from_rows_as_well(planner: Planner) -> None:
    planner.write("p.csv", "prompt,steps\na,3\n")

    assert (
        "matrix.steps: the prompts' column 'steps' sets steps too"
        in planner.problems("p.csv", matrix={"steps": [1, 2]})[0]
    )
    swept = planner.build("p.csv", matrix={"steps": [1, 2]}, prompts={"fields": {"steps": None}, "drop": ["steps"]})
    assert swept.column("steps") == [1, 2]


def test_where_and_limit_choose_rows(planner: Planner) -> None:
    planner.write("p.csv", "prompt,n\n" + "".join(f"p{i},{i}\n" for i in range(10)))

    plan = planner.build("p.csv", prompts={"where": "n|int % 2 == 0", "limit": 3})

    assert plan.column("prompt") == ["p0", "p2", "p4"]
    assert "`where` leaves none over" in planner.problems("p.csv", prompts={"where": "n == 'x'"})[0]


def test_shuffle_comes_before_limit_and_is_the_same_every_time(planner: Planner) -> None:
    planner.write("p.txt", "".join(f"p{i}\n" for i in range(100)))

    def drawn(seed: int) -> list[str]:
        return planner.build("p.txt", prompts={"shuffle": seed, "limit": 10}).column("prompt")

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert len(set(drawn(1))) == 10
    assert set(planner.build("p.txt", prompts={"shuffle": 1}).column("prompt")) == {f"p{i}" for i in range(100)}
