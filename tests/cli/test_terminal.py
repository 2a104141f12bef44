"""What a stranger wrote steers no terminal, and makes no link of a README."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from abstractvision_batch.cli import main
from abstractvision_batch.text.redaction import printable
from abstractvision_batch.verbs.run import run
from tests.support.jobs import MakeJob

STEERING = "\x1b]0;owned\x07\x1b[2J\r\x9b31m\u202e\u2066\ufeff"
BAD = set("\x1b\x07\r\x9b\u202e\u2066\ufeff")


@pytest.fixture
def strange_run(make_job: MakeJob, tmp_path: Path) -> Path:
    """A finished run, of which manifest and records were written by somebody else."""
    folder = tmp_path / "run"
    run(make_job(backend={"kind": "procedural", "fail_when": "fox"}, prompts={"source": ["a fox", "a cat"]}))
    for path in (folder / "manifest.parquet", *sorted((folder / "manifest").glob("*.parquet"))):
        table = pq.ParquetFile(path).read()
        for name in ("error_kind", "error_class", "error_message", "prompt", "prompt_id"):
            values = [None if value is None else value + STEERING for value in table[name].to_pylist()]
            table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, pa.string()))
        pq.write_table(table, path)
    record = json.loads((folder / "run.json").read_text())
    record["spec"]["description"] = STEERING
    record["environment"]["host"] = STEERING
    (folder / "run.json").write_text(json.dumps(record))
    return folder


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "command",
    [
        ["status", "RUN"],
        ["runs", "RUN"],
        ["audit", "RUN"],
        ["record", "RUN"],
        ["diff", "RUN", "RUN"],
        ["show", "RUN/none.png"],
        ["status", "RUN", "--json"],
        ["record", "RUN", "--json"],
        ["validate", "JOB"],
        ["plan", "JOB"],
        ["models", "--registry", "CARDS"],
        ["show-model", f"a{STEERING}", "--registry", "CARDS"],
        ["retry", "RUN"],
    ],
    ids=" ".join,
)
def test_no_command_prints_what_would_steer_a_terminal(
    strange_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    job: dict[str, Any] = {"name": "a", "model": STEERING, "prompts": {"source": [STEERING]}, STEERING: 1}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    (tmp_path / "cards.yaml").write_text(yaml.safe_dump({"models": {f"a{STEERING}": {"provider": STEERING}}}))
    places = {"RUN": str(strange_run), "JOB": str(tmp_path / "job.yaml"), "CARDS": str(tmp_path / "cards.yaml")}

    main([places.get(word, word.replace("RUN", str(strange_run))) for word in command])

    printed = capsys.readouterr()
    assert BAD.isdisjoint(printed.out) and BAD.isdisjoint(printed.err)
    if "--json" in command:
        json.loads(printed.out)


def test_a_warning_is_printed_clean_and_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    main(["tasks"])
    capsys.readouterr()
    record = logging.LogRecord("a", logging.WARNING, "a.py", 1, "%s", (f"https://u:PASS@h/x {STEERING}",), None)

    assert logging.lastResort is not None
    logging.lastResort.handle(record)

    printed = capsys.readouterr().err
    assert printed.startswith("https://h/x ")
    assert BAD.isdisjoint(printed)


def test_text_of_every_script_stays_as_it_is() -> None:
    text = "a fox 🦊, 👩‍👩‍👧, naïve, 狐狸, ثعلب, שועל\n\ttab, no-break\u00a0space"

    assert printable(text) == text


def test_a_page_of_differences_holds_no_control_characters(strange_run: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"

    main(["diff", str(strange_run), str(strange_run), "--html", str(page)])

    assert page.exists()
    assert BAD.isdisjoint(page.read_text(encoding="utf-8"))


def test_a_description_and_sources_of_a_card_make_no_links_and_pictures_in_the_readme(
    make_job: MakeJob, tmp_path: Path
) -> None:
    evil = "![x](https://evil/p.png) [y](javascript:z) <img src=x> \\[z](https://evil) ````"
    run(make_job(description=f"First line.\n\n{evil}{STEERING}", prompts={"source": ["a fox ````\n# Title"]}))

    text = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    head, _, spec = text.partition("## How it was made")
    assert "First line." in head
    for mark in ("![x]", "[y](", "<img", "\\\\[z]("):
        assert mark not in head
    assert BAD.isdisjoint(text)
    fence = "`````"
    assert spec.count(f"\n{fence}") == 2
