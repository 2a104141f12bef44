"""Notes of a plan: what can be run and is probably not what was meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from abstractvision_batch.cli.app import app
from tests.support.planning import Planner


def notes_of(planner: Planner, columns: str, **sections: Any) -> tuple[str, ...]:
    names = columns.split(",")
    return planner.build(
        planner.write("p.csv", f"prompt,{columns}\na fox{',1' * len(names)}\n"), **sections
    ).summary.notes


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("cfg_scale", "did you mean prompts.fields.guidance_scale: cfg_scale?"),
        ("CFG Scale", "did you mean prompts.fields.guidance_scale: CFG Scale?"),
        ("Negative Prompt", "did you mean prompts.fields.negative_prompt: Negative Prompt?"),
        ("negativ_prompt", "did you mean prompts.fields.negative_prompt: negativ_prompt?"),
        ("num_inference_steps", "did you mean prompts.fields.steps: num_inference_steps?"),
        ("Step", "did you mean prompts.fields.steps: Step?"),
        ("widht", "did you mean prompts.fields.width: widht?"),
        ("random_seed", "did you mean prompts.fields.seed: random_seed?"),
        ("framerate", "did you mean prompts.fields.fps: framerate?"),
        ("denoising strength", "did you mean prompts.fields.strength: denoising strength?"),
        ("sampler", "did you mean prompts.fields: {scheduler: sampler}?"),
        ("image", "text_to_image reads no image"),
    ],
)
def test_a_column_that_looks_like_a_parameter_and_feeds_nothing_is_noted(
    planner: Planner, column: str, expected: str
) -> None:
    (note,) = notes_of(planner, column)

    assert note == f"1 column feeds nothing and only passes through: {column} ({expected})"


@pytest.mark.parametrize(
    "column", ["kind", "weight", "Category", "score", "n", "steps", "source", "url", "title", "ok"]
)
def test_other_columns_are_not_noted(planner: Planner, column: str) -> None:
    assert notes_of(planner, column) == ()


def test_a_column_that_the_spec_speaks_of_is_not_noted(planner: Planner) -> None:
    assert notes_of(planner, "cfg_scale", prompts={"fields": {"guidance_scale": "cfg_scale"}}) == ()
    assert notes_of(planner, "cfg_scale", prompts={"fields": {"guidance_scale": None}}) == ()
    assert notes_of(planner, "cfg_scale", prompts={"drop": ["cfg_scale"]}) == ()
    assert notes_of(planner, "cfg_scale", prompts={"rename": {"cfg_scale": "theirs"}}) == ()
    assert notes_of(planner, "cfg_scale", prompts={"where": "cfg_scale == 1"}) == ()
    assert notes_of(planner, "cfg_scale", prompts={"template": "{{ row['cfg_scale'] }}"}) == ()


def test_lines_that_look_like_comments_are_noted(planner: Planner) -> None:
    (note,) = planner.build(planner.write("p.txt", "# animals\na fox\n# more\na cat\n")).summary.notes

    assert note == 'p.txt: 2 lines begin with # and are prompts (prompts.comments: "#" leaves such lines out)'


def test_an_unnamed_first_column_is_noted(planner: Planner) -> None:
    assert planner.build(planner.write("p.csv", ",prompt\n0,a\n")).summary.notes == (
        "p.csv: the first column has no name and is left out",
    )


def test_prompts_with_words_that_the_model_never_saw_are_counted(planner: Planner) -> None:
    plan = planner.build(
        ["a large red circle", "a fox in the snow", "a red fox"],
        model="avbatch/shapes64",
        backend={"kind": "diffusers"},
    )

    (note,) = plan.summary.notes
    assert note.startswith("2 of 3 prompts use words that avbatch/shapes64 was not trained on: fox, ")


def test_validate_plan_and_run_show_the_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = {
        "name": "job",
        "model": "avbatch/procedural",
        "backend": {"kind": "procedural"},
        "prompts": {"source": [{"prompt": "a fox", "cfg_scale": 5}]},
        "params": {"width": 16, "height": 16},
        "output": {"path": "run"},
    }
    Path("job.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")

    for verb in ("validate", "plan", "run", "run"):
        shown = CliRunner().invoke(app, [verb, "job.yaml"])
        found = json.loads(CliRunner().invoke(app, [verb, "job.yaml", "--json"]).stdout)

        assert shown.exit_code == 0
        assert "note: 1 column feeds nothing and only passes through: cfg_scale (did you mean" in shown.stderr
        assert [note[:30] for note in found["plan_notes" if verb == "run" else "notes"]] == [
            "1 column feeds nothing and onl"
        ]
