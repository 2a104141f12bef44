"""Every broken spec gives one line with its place, all of them at once, without a traceback and at once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import load_job

GOOD = """\
version: 1
name: demo
task: text_to_image
model: avbatch/procedural
backend: {kind: procedural}
prompts:
  source: [a fox, a hen]
params: {steps: 3, seed: 7}
output: {path: runs/demo}
"""
DIFFUSERS = GOOD.replace("{kind: procedural}", "{kind: diffusers}").replace("avbatch/procedural", "avbatch/shapes64")
NAME_FORM = "up to 100 letters, digits, dots, dashes and underscores"

#: What is broken → (text that replaces another in `GOOD`, the line that says so, `{file}` being the file).
BROKEN: dict[str, tuple[str, str, str]] = {
    "unknown parameter": (
        "steps: 3,",
        "stpes: 3,",
        "{file}:8:10: params.stpes: unknown field (did you mean steps?)",
    ),
    "another tool's parameter": (
        "steps: 3,",
        "num_inference_steps: 3,",
        "{file}:8:10: params.num_inference_steps: unknown field (did you mean steps?)",
    ),
    "another tool's field of another part": (
        "steps: 3,",
        "num_images: 3,",
        "{file}:8:10: params.num_images: unknown field (did you mean samples_per_prompt?)",
    ),
    "field one level too high": (
        "params: {steps: 3, seed: 7}",
        "guidance: 3",
        "{file}:8:1: guidance: unknown field (did you mean params.guidance_scale?)",
    ),
    "unknown field of a backend": (
        "{kind: procedural}",
        "{kind: procedural, delay: 1}",
        "{file}:5:29: backend.delay: unknown field (did you mean delay_s?)",
    ),
    "unknown backend": (
        "{kind: procedural}",
        "{kind: procedual}",
        '{file}:5:11: backend.kind: "procedual" is not one of diffusers, openai, procedural, sdcpp '
        "(did you mean procedural?)",
    ),
    "backend without its kind": (
        "{kind: procedural}",
        "{delay_s: 1}",
        "{file}:5:1: backend: required field kind is missing (one of diffusers, openai, procedural, sdcpp)",
    ),
    "unknown task": (
        "task: text_to_image",
        "task: txt2img",
        '{file}:3:1: task: "txt2img" is not one of text_to_image, image_to_image, text_to_video, image_to_video, '
        "multi_view_image (did you mean text_to_image?)",
    ),
    "unknown model": (
        "avbatch/procedural",
        "avbatch/procedual",
        '{file}:4:1: model: no card has the id "avbatch/procedual" (did you mean avbatch/procedural?)',
    ),
    "wrong type": (
        "steps: 3,",
        "steps: abc,",
        '{file}:8:10: params.steps: "abc" is not an integer from 1 to 10000',
    ),
    "quoted number": (
        "steps: 3,",
        'steps: "3",',
        '{file}:8:10: params.steps: "3" is not an integer from 1 to 10000 (without quotes)',
    ),
    "out of range": (
        "steps: 3,",
        "steps: 0,",
        "{file}:8:10: params.steps: 0 is not an integer from 1 to 10000",
    ),
    "number or auto": (
        "output:",
        "execution: {actors: many}\noutput:",
        '{file}:9:13: execution.actors: "many" is not an integer from 1 to 100000, {{min: …, max: …}} or "auto"',
    ),
    "range upside down": (
        "output:",
        "execution: {actors: {min: 4, max: 2}}\noutput:",
        "{file}:9:13: execution.actors: min is 4, more than max, which is 2 (swap them, or write one number)",
    ),
    "range without end": (
        "output:",
        "execution: {actors: {min: 4}}\noutput:",
        "{file}:9:13: execution.actors.max: required field is missing (asked for as long as there are shards for them; "
        "those without a place are what an autoscaler looks at)",
    ),
    "GPUs as custom resource": (
        "output:",
        "execution: {resources: {GPU: 1}}\noutput:",
        "{file}:9:13: execution.resources: GPU is no custom resource (write gpus_per_actor)",
    ),
    "field of a runtime environment": (
        "output:",
        "execution: {runtime_env: {pips: [a]}}\noutput:",
        "{file}:9:27: execution.runtime_env.pips: unknown field (did you mean pip?)",
    ),
    "number where text is meant": (
        "name: demo",
        "name: 2026",
        f"{{file}}:2:1: name: 2026 is not text of this form: {NAME_FORM} (quote it)",
    ),
    "name with a space": (
        "name: demo",
        "name: my demo",
        f'{{file}}:2:1: name: "my demo" is not text of this form: {NAME_FORM}',
    ),
    "true as a prompt": (
        "[a fox, a hen]",
        "[a fox, true]",
        "{file}:7:19: prompts.source[1]: true is not text or a mapping (quote it)",
    ),
    "prompts of the wrong kind": (
        "source: [a fox, a hen]",
        "source: {masks: fox}",
        "{file}:7:3: prompts.source: names no source (one of files, run, images, dataset)",
    ),
    "missing field": (
        "output: {path: runs/demo}\n",
        "",
        "{file}:1:1: output: required field is missing",
    ),
    "missing field inside": (
        "{path: runs/demo}",
        "{image_format: png}",
        "{file}:9:1: output.path: required field is missing "
        "(folder or URL of the run, one run each; a relative path starts at the current folder)",
    ),
    "empty mapping": (
        "params: {steps: 3, seed: 7}",
        "params:",
        "{file}:8:1: params: is empty, not a mapping (remove the line or give a value)",
    ),
    "field written twice": (
        "params: {steps: 3, seed: 7}",
        "params: {steps: 3, steps: 4}",
        "{file}:8:20: params.steps: written twice (first at 8:10; keep one)",
    ),
    "not a number": (
        "steps: 3,",
        "guidance_scale: .nan,",
        "{file}:8:26: params.guidance_scale: .nan is not a finite number",
    ),
    "not a number, deep in extra": (
        "steps: 3,",
        "extra: {a: [1, -.inf]},",
        "{file}:8:25: params.extra.a[1]: -.inf is not a finite number",
    ),
    "huge integer": (
        "seed: 7",
        f"seed: {'9' * 5000}",
        "{file}:8:26: params.seed: an integer of 5000 digits is beyond 64 bits (quote it if it is text)",
    ),
    "merge key": (
        "params: {steps: 3, seed: 7}",
        "params: {<<: [3]}",
        '{file}:8:14: params["<<"]: is not a mapping, or a list of mappings',
    ),
    "python object": (
        "name: demo",
        "name: !!python/name:os.system",
        '{file}:2:7: name: tag "tag:yaml.org,2002:python/name:os.system" is not read',
    ),
    "secret in the clear": (
        "{path: runs/demo}",
        "{path: runs/demo, storage_options: {secret: hunter2}}",
        "{file}:9:45: output.storage_options.secret: a secret stands in the spec (write {{env: NAME}})",
    ),
    "secret of the wrong type is not repeated": (
        "{path: runs/demo}",
        "{path: runs/demo, storage_options: {secret: {env: hunter-2}}}",
        "{file}:9:54: output.storage_options.secret.env: this value is not text of this form: "
        "name of an environment variable: letters, digits and underscores",
    ),
    "token in the clear": (
        "{path: runs/demo}",
        "{path: runs/demo, storage_options: {token: hf_hunter2}}",
        "{file}:9:45: output.storage_options.token: a secret stands in the spec (write {{env: NAME}})",
    ),
    "no prompts": (
        "[a fox, a hen]",
        "[]",
        "{file}:7:3: prompts.source: is an empty list (give at least one prompt)",
    ),
    "regular expression": (
        "{kind: procedural}",
        "{kind: procedural, fail_when: '['}",
        "{file}:5:29: backend.fail_when: is no regular expression: unterminated character set at position 0",
    ),
    "text that no file name can hold": (
        "{path: runs/demo}",
        '{path: "a\\0b"}',
        "{file}:9:16: output.path: text with a NUL character in it",
    ),
    "unset variable": (
        "{path: runs/demo}",
        '{path: "${AVBATCH_NOT_SET}/demo"}',
        "{file}:9:10: output.path: environment variable AVBATCH_NOT_SET is not set (export AVBATCH_NOT_SET=…)",
    ),
    "malformed variable": (
        "{path: runs/demo}",
        '{path: "${A-B}"}',
        '{file}:9:10: output.path: "${{A-B}}" is not of the form ${{NAME}} (write $${{ for a literal ${{)',
    ),
    "yaml": (
        "params: {steps: 3, seed: 7}",
        "params: {steps: 3, seed: 7",
        "{file}:9:7: not YAML: while parsing a flow mapping did not find expected ',' or '}}'",
    ),
    "tab": (
        "  source:",
        "\tsource:",
        "{file}:7:1: not YAML: while scanning for the next token found character that cannot start any token",
    ),
    "second document": (
        "params: {steps: 3, seed: 7}",
        "---\nname: other",
        "{file}:8:1: a second document starts (a spec is one document)",
    ),
    "alias of nothing": (
        "name: demo",
        "name: *demo",
        "{file}:2:7: *demo refers to nothing written before it",
    ),
    "list as key": (
        "name: demo",
        "[name]: demo",
        "{file}:2:1: a list or mapping cannot be a key (quote text with braces)",
    ),
    "control character": (
        "name: demo",
        "name: de\x07mo",
        "{file}:2:9: not YAML: a control character",
    ),
}


def _problems_of(path: Path) -> tuple[str, ...]:
    started = time.process_time()
    with pytest.raises(SpecError) as caught:
        load_job(path)
    assert time.process_time() - started < 2
    assert all("\n" not in line for line in caught.value.problems)
    return caught.value.problems


def test_the_spec_that_the_broken_ones_are_made_of_is_good(tmp_path: Path) -> None:
    file = tmp_path / "good.yaml"
    file.write_text(GOOD)

    assert load_job(file).spec.name == "demo"


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_spec_is_one_line_with_its_place(what: str, tmp_path: Path) -> None:
    old, new, line = BROKEN[what]
    assert old in GOOD
    file = tmp_path / "broken.yaml"
    file.write_text(GOOD.replace(old, new, 1))

    assert _problems_of(file) == (line.format(file=file),)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", ": is empty (write a starter spec with `avbatch init`)"),
        (b"# nothing here\n", ": is empty (write a starter spec with `avbatch init`)"),
        (b"~", ": is empty (write a starter spec with `avbatch init`)"),
        (b"- a\n- b\n", ":1:1: a spec is a mapping of fields, not a list of 2"),
        (b"just text", ':1:1: a spec is a mapping of fields, not "just text"'),
        (b"\x89PNG\r\n\x1a\n\x00\x00", ": is binary, not YAML text in UTF-8"),
        (b"name: a\nmodel: caf\xe9\n", ":2:11: byte 0xe9 is not UTF-8 (save the file as UTF-8)"),
        ("name: é".encode("utf-16"), ": is binary, not YAML text in UTF-8"),
        (b"x" * (4 * 2**20 + 1), ": larger than 4194304 bytes (put prompts into a file of their own)"),
        (b"[" * 100_000, ":1:65: nested deeper than 64 levels"),
        (b"- " * 100_000, ":1:129: nested deeper than 64 levels"),
    ],
    ids=["nothing", "comment", "null", "list", "text", "binary", "latin-1", "utf-16", "large", "flow", "block"],
)
def test_a_file_that_is_no_spec_is_one_line(content: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_bytes(content)

    assert _problems_of(file) == (f"{file}{said}",)


def test_an_alias_bomb_is_refused_before_it_is_expanded(tmp_path: Path) -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
    ]
    file = tmp_path / "bomb.yaml"
    file.write_text("\n".join(lines))

    (problem,) = _problems_of(file)

    assert "more than 50000 keys and values, aliases counted" in problem


def test_a_folder_a_missing_file_and_an_unreadable_name_are_one_line(tmp_path: Path) -> None:
    assert _problems_of(tmp_path) == (f"{tmp_path}: is a folder, not a spec file",)
    missing = tmp_path / "missing.yaml"
    assert _problems_of(missing) == (f"{missing}: no such file (write a starter spec with `avbatch init`)",)
    assert _problems_of(Path("a\0b")) == ("a?b: cannot be read: embedded null byte",)


def test_every_violation_of_every_stage_is_reported_in_the_order_of_the_file(tmp_path: Path) -> None:
    """A wrong field does not hide the card's opinion of its neighbours."""
    file = tmp_path / "poster.yaml"
    file.write_text(
        "name: poster\n"
        "model: avbatch/shapes64\n"
        "prompts: {source: [1, a fox], lmit: 3}\n"
        "params:\n"
        "    stpes: 30\n"
        "    width: 65\n"
        "matrix: {steps: [20, 500, x]}\n"
        'output: {path: "${AVBATCH_NOT_SET}"}\n'
        "execution: {batch_size: 0}\n"
    )

    assert _problems_of(file) == (
        f"{file}:3:20: prompts.source[0]: 1 is not text or a mapping (quote it)",
        f"{file}:3:31: prompts.lmit: unknown field (did you mean limit?)",
        f"{file}:5:5: params.stpes: unknown field (did you mean steps?)",
        f"{file}:6:5: params.width: 65 is not allowed (only 64; registry/avbatch.yaml)",
        f"{file}:7:22: matrix.steps[1]: 500 is above the maximum 100 (allowed: 1 to 100; nearest: 100; "
        "registry/avbatch.yaml)",
        f'{file}:7:27: matrix.steps[2]: "x" is not an integer from 1 to 10000',
        f"{file}:8:10: output.path: environment variable AVBATCH_NOT_SET is not set (export AVBATCH_NOT_SET=…)",
        f'{file}:9:13: execution.batch_size: 0 is not an integer from 1 to 4096 or "auto"',
    )


def test_a_mistake_made_in_every_prompt_is_counted_after_a_hundred_lines(tmp_path: Path) -> None:
    file = tmp_path / "many.yaml"
    file.write_text(GOOD.replace("[a fox, a hen]", f"[{', '.join(['1'] * 150)}]"))

    problems = _problems_of(file)

    assert len(problems) == 101
    assert problems[-1] == "and 50 problems more"


def test_two_wrong_elements_of_two_loras_do_not_hide_the_backend(tmp_path: Path) -> None:
    file = tmp_path / "loras.yaml"
    file.write_text(DIFFUSERS.replace("{kind: diffusers}", "{kind: diffusers, loras: [{source: 1}, {scale: x}]}"))

    assert [line.removeprefix(f"{file}:") for line in _problems_of(file)] == [
        "5:37: backend.loras[0].source: 1 is not non-empty text (quote it)",
        "5:49: backend.loras[1].source: required field is missing (folder or file, relative to the spec, or hub id)",
        '5:50: backend.loras[1].scale: "x" is not a number from -10 to 10',
    ]
