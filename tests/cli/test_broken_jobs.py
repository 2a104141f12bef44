"""Two dozen ways to get a job wrong: each is one line with its place, exit 2 or 3, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from abstractvision_batch.backends import table
from abstractvision_batch.cli.app import app

JOB = """\
name: a
model: avbatch/procedural
backend: {kind: procedural}
prompts: {source: [a fox]}
output: {path: OUT}
"""
EMBEDDED = JOB.replace("avbatch/procedural", "avbatch/shapes64").replace("kind: procedural", "kind: diffusers")


def _prompts(text: str) -> str:
    return JOB.replace("[a fox]", text)


def _bomb() -> str:
    lines = ["b0: &b0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 9)}]" for n in range(1, 10)]
    return "\n".join(lines) + "\n" + JOB


#: What is wrong → the spec, and how its one line begins and what it must contain.
BROKEN: dict[str, tuple[str | bytes, str, str]] = {
    "unknown key": (JOB + "smaples_per_prompt: 2\n", "job.yaml:6:1: ", "did you mean samples_per_prompt?"),
    "wrong type": (JOB + "samples_per_prompt: two\n", "job.yaml:6:1: ", "samples_per_prompt"),
    "bad YAML": (JOB + "params: {steps: 3\n", "job.yaml:7:1: ", "not YAML"),
    "unknown model": (JOB.replace("procedural\n", "procedurl\n"), "job.yaml:2:1: ", "did you mean avbatch/procedural?"),
    "unsupported task": (EMBEDDED + "task: text_to_video\n", "job.yaml:6:1: ", "has no task text_to_video"),
    "out of the card's range": (EMBEDDED + "params: {steps: 500}\n", "job.yaml:6:10: ", "above the maximum 100"),
    "missing column": (_prompts("p.csv, fields: {prompt: Prompt}"), "job.yaml:4:35: ", "did you mean promt?"),
    "unknown field in a template": (_prompts("q.csv, template: '{{ colour }}'"), "job.yaml:4:26: ", "'colour'"),
    "missing prompt file": (_prompts("nothing.csv"), "job.yaml:4:11: ", "no such file"),
    "empty prompt set": (_prompts("empty.txt"), "job.yaml:4:11: ", "there is no prompt"),
    "duplicate prompt ids": (_prompts("q.csv"), "q.csv:3: ", "is that of q.csv:2 too"),
    "NaN": (JOB + "params: {guidance_scale: .nan}\n", "job.yaml:6:26: ", "not a finite number"),
    "a huge integer": (JOB + f"params: {{seed: {'9' * 5000}}}\n", "job.yaml:6:16: ", "beyond 64 bits"),
    "a YAML bomb": (_bomb(), "job.yaml:", "more than 50000 keys and values"),
    "a directory as prompt file": (_prompts("folder.txt"), "job.yaml:4:11: ", "is a folder"),
    "binary garbage": (bytes(range(256)) * 8, "job.yaml: ", "is binary"),
    "wrong encoding": (JOB.replace("fox", "Käse").encode("latin-1"), "job.yaml:4:", "is not UTF-8"),
    "wrong encoding of prompts": (_prompts("latin.csv"), "latin.csv:2: ", "is not UTF-8"),
    "binary garbage as prompts": (_prompts("binary.csv"), "binary.csv:1: ", "not text"),
    "an absent driver": (JOB.replace("OUT", "nosuch://bucket/run"), "job.yaml:5:10: ", "nosuch"),
    "an absent model": (EMBEDDED.replace("diffusers", "diffusers, model_path: nowhere"), "job.yaml:2:1: ", "nowhere"),
    "an output that is a file": (JOB.replace("OUT", "p.csv/run"), "job.yaml:5:10: ", "is a file"),
    "an empty file": ("", "job.yaml: ", "is empty"),
}  # fmt: skip


@pytest.fixture
def run_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str | bytes], tuple[int, list[str]]]:
    monkeypatch.chdir(tmp_path)
    Path("p.csv").write_text("id,promt\n1,a fox\n", encoding="utf-8")
    Path("q.csv").write_text("id,prompt\n1,a fox\n1,a cat\n", encoding="utf-8")
    Path("latin.csv").write_bytes("prompt\nKäse\n".encode("latin-1"))
    Path("binary.csv").write_bytes(bytes(range(256)))
    Path("empty.txt").write_text("\n\n", encoding="utf-8")
    Path("folder.txt").mkdir()

    def run_spec(spec: str | bytes) -> tuple[int, list[str]]:
        text = spec if isinstance(spec, bytes) else spec.replace("OUT", str(tmp_path / "out")).encode()
        Path("job.yaml").write_bytes(text)
        result = CliRunner().invoke(app, ["run", "job.yaml", "--quiet"])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert result.stdout == ""
        return result.exit_code, result.stderr.splitlines()

    return run_spec


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_job_is_one_line_with_its_place_and_starts_nothing(
    what: str, run_spec: Callable[[str | bytes], tuple[int, list[str]]]
) -> None:
    spec, place, said = BROKEN[what]

    code, (line, *rest) = run_spec(spec)

    assert code in (2, 3)
    assert line.startswith(place)
    assert said in line
    assert rest in ([], ["1 problem; nothing was started"])
    assert not Path("out").exists()


def test_an_absent_extra_is_the_pip_command(
    monkeypatch: pytest.MonkeyPatch, run_spec: Callable[[str | bytes], tuple[int, list[str]]]
) -> None:
    entry = table.BackendEntry(target="nowhere:Nothing", modules=("a_module_nobody_has",), install="pip install it")
    monkeypatch.setitem(table.BACKENDS, "diffusers", entry)

    code, lines = run_spec(EMBEDDED)

    assert (code, len(lines)) == (3, 1)
    assert lines[0].startswith("job.yaml:3:")
    assert "pip install it" in lines[0]


def test_an_output_that_holds_another_run_is_left_as_it_is(
    run_spec: Callable[[str | bytes], tuple[int, list[str]]],
) -> None:
    assert run_spec(JOB) == (0, [])
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")}

    code, lines = run_spec(JOB + "params: {steps: 3}\n")

    assert code == 2
    assert lines[0].startswith("job.yaml:5:10: output.path: ")
    assert "holds another run" in lines[0]
    assert "params.steps" in lines[0]
    assert {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")} == before


def test_everything_that_is_wrong_is_said_at_once(run_spec: Callable[[str | bytes], tuple[int, list[str]]]) -> None:
    code, lines = run_spec(JOB + "taks: x\nparams: {stpes: 3, width: -1}\nmatrix: {steps: [1, 1], cfg_scale: [2]}\n")

    assert code == 2
    assert [line.split(": ")[1] for line in lines[:-1]] == [
        "taks",
        "params.stpes",
        "params.width",
        "matrix.steps[1]",
        "matrix.cfg_scale",
    ]
    assert lines[-1] == "5 problems; nothing was started"
