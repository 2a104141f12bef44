"""Templates and filters over rows: strict, pure and harmless."""

from __future__ import annotations

import pytest

from tests.support.planning import Planner

CSV = "subject,n,note\na fox,3,\na cat,4,x\n"


def test_a_template_makes_the_prompt_of_the_row(planner: Planner) -> None:
    planner.write("p.csv", CSV)
    plan = planner.build(
        "p.csv", prompts={"template": "{{ n }} x {{ subject|upper }}{% if note %} ({{ note }}){% endif %}"}
    )

    assert plan.column("prompt") == ["3 x A FOX", "4 x A CAT (x)"]
    assert plan.column("subject") == ["a fox", "a cat"]


def test_a_column_whose_name_is_no_identifier_is_read_through_row(planner: Planner) -> None:
    planner.write("p.csv", "Image Prompt,n\na fox,1\na cat,2\n")

    plan = planner.build("p.csv", prompts={"template": "{{ row['Image Prompt'] }}!", "where": "row['n'] == '2'"})

    assert plan.column("prompt") == ["a cat!"]
    assert "no attribute 'Image'" in planner.problems("p.csv", prompts={"template": "{{ row['Image'] }}"})[0]


@pytest.mark.parametrize(
    "template", ["{{ subjct }}", "{% if false %}{{ subjct }}{% endif %}", "{{ subjct | default('') }}"]
)
def test_an_unknown_field_is_an_error_before_the_first_row(planner: Planner, template: str) -> None:
    planner.write("p.csv", CSV)

    assert planner.problems("p.csv", prompts={"template": template}) == (
        "<spec>: prompts.template: the prompts have no column 'subjct' "
        "(did you mean subject? columns: subject, n, note)",
    )


def test_the_template_is_placed_in_the_spec_file(planner: Planner) -> None:
    from abstractvision_batch.errors import SpecError
    from abstractvision_batch.job.load import load_job
    from abstractvision_batch.plan.build import build_plan

    planner.write("p.csv", CSV)
    planner.write(
        "job.yaml",
        "name: job\nmodel: avbatch/procedural\nbackend: {kind: procedural}\n"
        "prompts:\n  source: p.csv\n  template: a {{ subjct }}\noutput: {path: run}\n",
    )
    with pytest.raises(SpecError, match=r"job\.yaml:6:3: prompts\.template: "):
        build_plan(load_job(planner.folder / "job.yaml"), planner.folder)


def test_a_field_missing_from_one_row_names_the_row(planner: Planner) -> None:
    planner.write("p.jsonl", '{"a": "x", "b": "y"}\n{"a": "x"}\n{"a": "x", "b": null}\n')

    problems = planner.problems("p.jsonl", prompts={"template": "{{ a }} {{ b }}"})

    assert problems[0] == "p.jsonl:2: template: 'b' is undefined"
    assert problems[1].startswith("p.jsonl:3: template: a value is null")


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 10 ** 9 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '{:999999999}'.format(1) }}",
        "{{ subject.ljust(999999999) }}",
        "{{ subject.__class__.__mro__ }}",
        "{{ n|int / 0 }}",
        "{{ subject + 1 }}",
        "{{ subject.nothing }}",
    ],
)
def test_what_would_grow_or_escape_is_an_error_of_the_row(planner: Planner, template: str) -> None:
    planner.write("p.csv", CSV)

    assert planner.problems("p.csv", prompts={"template": template})[0].startswith("p.csv:2: template: ")


@pytest.mark.parametrize(
    "template", ["{{ range(10) }}", "{{ lipsum() }}", "{{ subject | random }}", "{{ subject | center(9) }}"]
)
def test_functions_and_random_filters_do_not_exist(planner: Planner, template: str) -> None:
    planner.write("p.csv", CSV)

    assert planner.problems("p.csv", prompts={"template": template})[0].startswith("<spec>: prompts.template: ")


def test_a_prompt_is_never_longer_than_the_limit(planner: Planner) -> None:
    planner.write("p.csv", "subject\n" + "x" * 1000 + "\n")

    problems = planner.problems("p.csv", prompts={"template": "{% for c in subject %}{{ subject }}{% endfor %}"})

    assert problems == ("p.csv:2: template: the prompt passes 100000 characters",)


def test_templates_that_take_long_are_a_line_for_each_row(planner: Planner) -> None:
    planner.write("p.csv", "subject\n" + ("x" * 1000 + "\n") * 50)
    loops = "{% for a in subject %}" * 4 + "{% endfor %}" * 4

    problems = planner.problems("p.csv", prompts={"template": loops})

    assert problems[0] == "p.csv:2: template: it takes too long: more steps than a template may take"
    fields = {"prompt": "subject"}
    where = "subject.replace('', subject).replace('', subject)"
    assert "more than 1,000,000 characters" in planner.problems("p.csv", prompts={"where": where, "fields": fields})[0]


@pytest.mark.parametrize(("field", "text"), [("template", "{{ subject"), ("where", "n =="), ("where", "n }} {{ n")])
def test_bad_syntax_is_one_line(planner: Planner, field: str, text: str) -> None:
    planner.write("p.csv", CSV)

    (problem,) = planner.problems("p.csv", prompts={field: text, "fields": {"prompt": "subject"}})

    assert problem.startswith(f"<spec>: prompts.{field}: ")


def test_a_filter_names_unknown_columns_and_failing_rows(planner: Planner) -> None:
    planner.write("p.csv", CSV)
    fields = {"prompt": "subject"}

    assert "no column 'm'" in planner.problems("p.csv", prompts={"where": "m > 3", "fields": fields})[0]
    assert planner.problems("p.csv", prompts={"where": "note > 3", "fields": fields})[0].startswith("p.csv:2: where: ")


def test_text_outside_braces_stays_as_it_is(planner: Planner) -> None:
    assert planner.build([{"prompt": "{{ x }} {% y %}"}]).column("prompt") == ["{{ x }} {% y %}"]
