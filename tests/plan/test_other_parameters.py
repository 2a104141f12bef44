"""Parameters that only a model's backend has, as axes, draws and columns: what stands in the plan."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import pytest

from abstractvision_batch.documents.conditions import meet_condition
from abstractvision_batch.job.draw import DrawSpec, draw_points
from abstractvision_batch.job.load import load_job
from tests.support.planning import BuiltPlan, Planner

#: The embedded model's backend with adapters that need not exist before anything is generated.
DIFFUSERS: dict[str, Any] = {
    "model": "avbatch/shapes64",
    "backend": {
        "kind": "diffusers",
        "loras": [{"source": "base.safetensors"}],
        "lora_sets": {"soft": [{"source": "soft.safetensors", "scale": 0.5}], "none": []},
    },
}


def _extras(plan: BuiltPlan) -> list[dict[str, Any]]:
    return [json.loads(text) for text in plan.column("params_json")]


@pytest.mark.parametrize(
    ("values", "type_", "stored"),
    [
        ([1, 2], "int64", [1, 2]),
        ([1, 2.5], "double", [1.0, 2.5]),
        ([True, False], "bool", [True, False]),
        (["a", "b"], "string", ["a", "b"]),
        ([[1, 0.5], []], "string", ["[1, 0.5]", "[]"]),
        ([{"b": 1, "a": None}, "x"], "string", ['{"a": null, "b": 1}', "x"]),
        ([1, "auto", True], "string", ["1", "auto", "true"]),
    ],
)
def test_values_of_an_axis_stand_in_a_typed_column_and_in_the_request(
    planner: Planner, values: list[Any], type_: str, stored: list[Any]
) -> None:
    plan = planner.build(["a"], matrix={"extra.what": values}, params={"extra": {"other": 7}})

    assert str(plan.schema.field("extra.what").type) == type_
    assert plan.column("extra.what") == stored
    assert _extras(plan) == [{"other": 7, "what": value} for value in values]


def test_a_sweep_over_a_parameter_makes_the_requests_that_constants_of_it_make(planner: Planner) -> None:
    swept = planner.build(["a", "b"], matrix={"extra.what": [1, [2, 3]]})
    constant = [planner.build(["a", "b"], params={"extra": {"what": value}}) for value in (1, [2, 3])]

    assert swept.column("request_id") == [id_ for plan in constant for id_ in plan.column("request_id")]


def test_adapters_of_a_set_count_by_what_they_are_and_not_by_the_name_of_the_set(planner: Planner) -> None:
    swept = planner.build(["a"], matrix={"loras": ["soft", "none"], "loras[0].scale": [1]}, **DIFFUSERS)
    renamed = {"light": [{"source": "soft.safetensors", "scale": 0.5}], "more": [{"source": "more.safetensors"}]}
    backend = {**DIFFUSERS["backend"], "lora_sets": renamed}
    again = planner.build(
        ["a"], matrix={"loras": ["light", "more"], "loras[0].scale": [1]}, **{**DIFFUSERS, "backend": backend}
    )

    assert swept.column("loras") == ["soft", "none"]
    assert _extras(swept)[0] == {"loras": "soft", "loras[0].scale": 1}
    assert swept.column("request_id")[0] == again.column("request_id")[0]
    assert len({*swept.column("request_id"), *again.column("request_id")}) == 3


def test_a_set_that_no_request_names_leaves_their_ids_as_they_are(planner: Planner) -> None:
    plain = planner.build(["a"], **{**DIFFUSERS, "backend": {**DIFFUSERS["backend"], "lora_sets": {}}})

    assert planner.build(["a"], **DIFFUSERS).column("request_id") == plain.column("request_id")


def test_requests_that_differ_in_another_parameter_never_share_a_batch(planner: Planner) -> None:
    rows = [{"prompt": f"p{number}", "what": number % 3} for number in range(30)]

    plan = planner.build(
        rows,
        prompts={"fields": {"extra.what": "what"}},
        matrix={"seed": [1, 2], "extra.more": ["a", "b"]},
        execution={"batch_size": 4},
    )

    shared = defaultdict(set)
    for row in plan.rows:
        shared[row["batch_id"]].add(row["params_json"])
    assert all(len(values) == 1 for values in shared.values())
    assert len(shared) < len(plan.rows) / 2


TABLE = """prompt,eta,sigmas,flag,word
a fox,0.5,"[1, 0.5]",true,007
a cat,1,,FALSE,
a dog,,[],true,x
"""
FIELDS = {"extra.eta": "eta", "extra.sigmas": "sigmas", "extra.flag": "flag", "extra.word": "word"}


def test_cells_of_a_table_are_typed_and_empty_ones_leave_the_parameter_to_the_job(planner: Planner) -> None:
    planner.write("rows.csv", TABLE)

    plan = planner.build("rows.csv", prompts={"fields": FIELDS}, params={"extra": {"word": "job"}})

    assert _extras(plan) == [
        {"eta": 0.5, "sigmas": [1, 0.5], "flag": True, "word": "007"},
        {"eta": 1, "flag": False, "word": "job"},
        {"sigmas": [], "flag": True, "word": "x"},
    ]
    assert plan.column("extra.eta") == [0.5, 1.0, None]
    assert plan.column("extra.sigmas") == ["[1, 0.5]", None, "[]"]
    assert plan.column("extra.flag") == [True, False, True]
    assert plan.column("extra.word") == ["007", "job", "x"]
    assert "eta" not in plan.schema.names


def test_rows_of_json_have_values_as_they_are(planner: Planner) -> None:
    rows = [{"prompt": "a", "x": {"k": [1]}}, {"prompt": "b", "x": 3}, {"prompt": "c"}]

    plan = planner.build(rows, prompts={"fields": {"extra.x": "x"}})

    assert _extras(plan) == [{"x": {"k": [1]}}, {"x": 3}, {}]
    assert plan.column("extra.x") == ['{"k": [1]}', "3", None]


def test_a_row_names_a_set_of_adapters(planner: Planner) -> None:
    rows = [{"prompt": "a", "style": "soft"}, {"prompt": "b", "style": "none"}, {"prompt": "c"}]

    plan = planner.build(rows, prompts={"fields": {"loras": "style"}}, **DIFFUSERS)

    assert plan.column("loras") == ["soft", "none", None]
    wrong = [{"prompt": "a", "style": "sof"}, {"prompt": "b", "style": "/etc/x"}]
    at, said = "<spec>: prompts.source[{}]: loras (column 'style'): ", "is no set of backend.lora_sets"
    assert planner.problems(wrong, prompts={"fields": {"loras": "style"}}, **DIFFUSERS) == (
        f'{at.format(0)}"sof" {said} (did you mean soft?)',
        f'{at.format(1)}"/etc/x" {said} (it has: soft, none)',
    )


def test_a_column_of_the_name_of_a_parameter_passes_under_another(planner: Planner) -> None:
    plan = planner.build([{"prompt": "a", "extra.x": 9, "y": 1}], matrix={"extra.x": [1, 2], "extra.y": [3]})

    assert plan.column("extra.x") == [1, 2]
    assert plan.column("source_extra.x") == [9, 9]
    assert plan.column("y") == [1, 1]


def test_a_parameter_varies_in_one_place(planner: Planner) -> None:
    assert planner.problems(
        [{"prompt": "a", "x": 1}], prompts={"fields": {"extra.x": "x"}}, matrix={"extra.x": [1, 2]}
    ) == (
        "<spec>: matrix[\"extra.x\"]: the prompts' column 'x' sets extra.x too "
        "(take one away, or set prompts.fields.extra.x: null)",
    )


def test_skip_reads_other_parameters_without_quotes(planner: Planner) -> None:
    plan = planner.build(
        ["a"],
        matrix={"extra.what": [1, 2, 3], "loras": ["soft", "none"]},
        skip="extra.what > 1 and loras = 'none' or extra.what > extra.most",
        params={"extra": {"most": 2}},
        **DIFFUSERS,
    )

    assert list(zip(plan.column("extra.what"), plan.column("loras"), strict=True)) == [
        (1, "soft"),
        (1, "none"),
        (2, "soft"),
    ]


def test_a_condition_on_rows_names_columns_with_dots_without_quotes(planner: Planner) -> None:
    plan = planner.build(["a"], matrix={"extra.clip_skip": [1, 2], "extra.mode": ["a", "b"], "steps": [20, 30]})
    rows = plan.schema.empty_table().from_pylist(plan.rows, plan.schema)

    expected = [row["extra.clip_skip"] > 1 and row["extra.mode"] == "a" and row["steps"] == 30 for row in plan.rows]
    assert meet_condition(rows, "extra.clip_skip > 1 AND extra.mode = 'a' AND steps = 30") == expected
    assert meet_condition(rows, "EXTRA.Clip_Skip > 1 AND \"extra.mode\" = 'a' AND steps = 30") == expected


def test_a_further_parameter_leaves_the_draws_of_the_others_as_they_are(planner: Planner) -> None:
    draw = {"n": 6, "guidance_scale": {"uniform": [1, 9]}, "extra.eta": {"uniform": [0, 1]}}
    more = {**draw, "extra.sigmas": {"choice": [[1.0], [0.5]]}, "loras[0].scale": {"int": [0, 5]}}

    before, after = (draw_points(DrawSpec.model_validate(one), 7) for one in (draw, more))
    larger = draw_points(DrawSpec.model_validate({**more, "n": 9}), 7)

    assert [(point["guidance_scale"], point["extra.eta"]) for point in before] == [
        (point["guidance_scale"], point["extra.eta"]) for point in after
    ]
    assert larger[:6] == after
    plan = planner.build(["a"], draw={"n": 2, "extra.eta": {"uniform": [0, 1]}, "extra.on": {"int": [0, 1]}})
    assert [str(plan.schema.field(name).type) for name in ("extra.eta", "extra.on")] == ["double", "int64"]


def test_variants_have_parameters_of_their_own(planner: Planner) -> None:
    plan = planner.build(
        ["a"],
        variants={
            "one": {"matrix": {"extra.x": [1, 2]}},
            "two": {"matrix": {"extra.y": ["p"]}, "params": {"steps": 9}},
        },
    )

    assert dict(plan.summary.columns) == {"variant": "string", "extra.x": "int64", "extra.y": "string"}
    found = [(row["variant"], row.get("extra.x"), row.get("extra.y")) for row in plan.rows]
    assert found == [("one", 1, None), ("one", 2, None), ("two", None, "p")]


PLAIN: dict[str, Any] = {
    "name": "x",
    "model": "avbatch/procedural",
    "backend": {"kind": "procedural"},
    "prompts": {"source": ["a"]},
    "output": {"path": "run"},
}


def test_a_parameter_is_set_from_the_command_line_by_its_name() -> None:
    job = load_job(
        PLAIN,
        overrides=[
            "matrix.extra.what=[1, 2]",
            "matrix.extra.what[1]=5",
            "draw={n: 3}",
            "draw.extra.eta.uniform=[0, 1]",
            "prompts.fields.extra.more=column",
        ],
    )

    assert job.spec.matrix == {"extra.what": [1, 5]}
    assert job.spec.draw is not None
    assert job.spec.draw.parameters["extra.eta"].uniform == [0, 1]
    assert job.spec.prompts.fields.others == {"extra.more": "column"}


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"matrix": {"extra.steps": [1]}}, 'matrix["extra.steps"]: is no extra parameter (write steps)'),
        ({"matrix": {"extra.cfg": [1]}}, 'matrix["extra.cfg"]: is no extra parameter (write guidance_scale)'),
        ({"matrix": {"stps": [1]}}, "matrix.stps: unknown parameter (did you mean steps?)"),
        ({"matrix": {"lora": ["a"]}}, "matrix.lora: unknown parameter (did you mean loras?)"),
        ({"draw": {"n": 2, "stps": {"int": [1, 2]}}}, "draw.stps: unknown field (did you mean steps?)"),
        (
            {"prompts": {"source": ["a"], "fields": {"promt": "x"}}},
            "prompts.fields.promt: unknown field (did you mean prompt?)",
        ),
        (
            {"matrix": {"extra.loras": ["x"]}},
            'matrix["extra.loras"]: is no extra parameter here (write loras: a name of backend.lora_sets)',
        ),
        ({"matrix": {"extra.x": [1, None]}}, 'matrix["extra.x"][1]: null is no value (give one;'),
        ({"matrix": {"extra.x": [[1], [1]]}}, 'matrix["extra.x"][1]: a list of 1 is there twice'),
        (
            {"matrix": {"loras": ["x"]}},
            "matrix.loras: backend procedural takes no LoRA adapters for single requests (leave it out)",
        ),
        (
            {"zip": {"scheduler": ["x"]}},
            "zip.scheduler: backend procedural takes no scheduler for single requests (leave it out)",
        ),
        (
            {"matrix": {"loras": ["sof"]}, **DIFFUSERS},
            'matrix.loras[0]: "sof" is no set of backend.lora_sets (did you mean soft?)',
        ),
        (
            {"matrix": {"loras[1].scale": [1]}, **DIFFUSERS},
            'matrix["loras[1].scale"]: there is no adapter 1 (backend.loras and backend.lora_sets have up to 1)',
        ),
        (
            {"zip": {"loras[0].scale": [1, 11, "x"]}, **DIFFUSERS},
            'zip["loras[0].scale"][1]: 11 is no number from -10 to 10',
        ),
        (
            {"draw": {"n": 2, "loras": {"int": [1, 2]}}, **DIFFUSERS},
            "draw.loras.int: loras is a name (write choice: [a list])",
        ),
    ],
)
def test_what_is_wrong_with_a_parameter_is_one_line_at_its_place(
    planner: Planner, sections: dict[str, Any], expected: str
) -> None:
    given = {**{"prompts": {"source": ["a"]}}, **sections}
    prompts = given.pop("prompts")

    problems = planner.problems(prompts.pop("source"), prompts=prompts, **given)

    assert problems[0].removeprefix("<spec>: ").startswith(expected)


def test_a_scheduler_counts_by_what_it_means_and_not_by_how_it_is_written(planner: Planner) -> None:
    names = ["Euler a", "euler_ancestral", {"name": "EulerAncestralDiscreteScheduler"}]
    plans = [planner.build(["a"], params={"extra": {"scheduler": name}}, **DIFFUSERS) for name in names]
    plans += [planner.build(["a"], matrix={"scheduler": [names[0]]}, **DIFFUSERS)]

    assert len({plan.column("request_id")[0] for plan in plans}) == 1
    assert plans[-1].column("scheduler") == ["Euler a"], "the plan has what was written"
    twice = {"matrix": {"scheduler": ["DPM++ 2M Karras", {"name": "DPM++ 2M", "use_karras_sigmas": True}]}}
    assert "matrix.scheduler[1]: a mapping is there twice" in planner.problems(["a"], **twice, **DIFFUSERS)[0]
