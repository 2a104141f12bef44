"""Prompt files as spreadsheets, data sets and other programs write them: read where that is certain."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abstractvision_batch.prompts.tables import TableError, read_records
from tests.support.planning import BuiltPlan, Planner


def cells(plan: BuiltPlan, *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in plan.rows]


@pytest.mark.parametrize(
    "text",
    [
        'prompt, seed, steps\n"a red, fox", 7, 9\na cat , 8 , 10\n',
        ' "prompt" ,seed\t, "steps"\n "a red, fox" ,7,9\n\ta cat,"8","10"\n',
        'prompt,seed,steps,,\n"a red, fox",7,9,,\na cat,8,10,,\n,,,,\n',
        'prompt;seed;steps\n"a red, fox";7;9\na cat;8;10\n',
        "prompt;seed;steps\na red, fox;7;9\na cat;8;10;\n",
        "sep=;\nprompt;seed;steps\na red, fox;7;9\na cat;8;10\n",
        '"sep=|"\nprompt|seed|steps\na red, fox|7|9\na cat|8|10\n',
        "prompt\tseed\tsteps\na red, fox\t7\t9\na cat\t8\t10\n",
        'prompt|seed|steps\r\n"a red, fox"|7|9\r\na cat|8|10\r\n\r\n',
        'prompt,seed,steps\r"a red, fox",7,9\ra cat,8,10\r',
        ',prompt,seed,steps\n0,"a red, fox",7,9\n1,a cat,8,10\n',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["p.csv", "p.tsv"])
def test_a_table_is_read_whatever_program_wrote_it(planner: Planner, text: str, encoding: str, name: str) -> None:
    if name == "p.tsv" and '"' in text and "\t" not in text.split("\n")[0]:
        pytest.skip("one of the kinds is enough")
    plan = planner.build(planner.write(name, text.encode(encoding)))

    assert cells(plan, "prompt", "seed", "steps") == [("a red, fox", 7, 9), ("a cat", 8, 10)]
    assert plan.summary.columns == ()


def test_quotes_and_spaces_inside_a_cell_are_its_own(planner: Planner) -> None:
    plan = planner.build(planner.write("p.csv", 'prompt,note\n a "red" fox ,"  kept  "\n'))

    assert cells(plan, "prompt", "note") == [('a "red" fox', "  kept  ")]


@pytest.mark.parametrize("text", ["prompt\na fox; a cat\n", "prompt\na fox | a cat\n", "prompt, n\na;b;c,1\n"])
def test_another_separator_is_taken_only_where_it_is_certain(planner: Planner, text: str) -> None:
    plan = planner.build(planner.write("p.csv", text))

    assert plan.column("prompt") == [text.split("\n")[1].removesuffix(",1")]


@pytest.mark.parametrize("name", ["p.csv", "p.tsv"])
def test_a_cell_may_be_as_long_as_a_line(planner: Planner, name: str) -> None:
    long, separator = "x " * 90_000 + "x", "," if name == "p.csv" else "\t"
    plan = planner.build(
        planner.write(name, f'prompt{separator}note\na fox{separator}"{long}\n{long}"\nb{separator}{long}\n')
    )

    assert plan.column("note") == [f"{long}\n{long}", long]


CSV_CELL = st.text(st.sampled_from('ab ,;"\t\n'), max_size=6)


@given(rows=st.lists(st.lists(CSV_CELL, min_size=2, max_size=3), max_size=4), every=st.booleans())
def test_what_csv_writes_is_read_back(rows: list[list[str]], every: bool) -> None:
    written = io.StringIO(newline="")
    csv.writer(written, quoting=csv.QUOTE_ALL if every else csv.QUOTE_MINIMAL).writerows(rows)
    lines = list(enumerate(written.getvalue().splitlines(keepends=True), 1))

    assert [record for _, record in read_records(lines, ",", find=False)] == rows


@given(text=st.text(st.sampled_from('ab ,"\n'), max_size=30))
def test_version_1_reads_a_csv_file_as_it_always_did(text: str) -> None:
    lines = [(number, line) for number, line in enumerate(text.splitlines(keepends=True), 1)]
    try:
        expected = [record for record in csv.reader((line for _, line in lines), strict=True) if record]
    except csv.Error:
        with pytest.raises(TableError):
            list(read_records(lines, ",", find=False))
        return

    assert [record for _, record in read_records(lines, ",", find=False)] == expected


def test_a_run_of_version_1_keeps_spaces_and_texts(planner: Planner) -> None:
    plan = planner.build(planner.write("p.csv", 'prompt, n\na fox, "1"\nb,\n'), version=1)

    assert cells(plan, "prompt", " n") == [("a fox", ' "1"'), ("b", "")]


ROWS = "prompt,ok,score,count,code,day,none\na,true,0.50,3,007,2026-11-01,\nb,False,,-4,12,x,\nc,TRUE,1e-05,,3,,\n"


def test_columns_of_a_table_have_the_types_of_all_their_cells(planner: Planner) -> None:
    plan = planner.build(planner.write("p.csv", ROWS))

    assert dict(plan.summary.columns) == {
        "ok": "bool", "score": "double", "count": "int64", "code": "string", "day": "string", "none": "string",
    }  # fmt: skip
    assert cells(plan, "ok", "score", "count", "code", "day") == [
        (True, 0.5, 3, "007", "2026-11-01"),
        (False, None, -4, "12", "x"),
        (True, 1e-5, None, "3", ""),
    ]


@pytest.mark.parametrize(
    "text", ["007", "+1", "1e5", "1,5", "9223372036854775808", "nan", "inf", "1_000", "٣", "0x1F", "-0"]
)
def test_what_is_not_written_as_a_number_usually_is_stays_text(planner: Planner, text: str) -> None:
    plan = planner.build(planner.write("p.csv", f'prompt,code\na,"{text}"\nb,"1"\n'))

    assert plan.column("code") == [text, "1"]


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("ok", "ac"),
        ("not ok", "b"),
        ("ok == true", "ac"),
        ("ok == 'true'", "a"),
        ("ok is true", "ac"),
        ("ok is false", "b"),
        ("ok is boolean and ok is not true", "b"),
        ("score is not none and score > 0.4", "a"),
        ("score == '0.50'", "a"),
        ("count == 3", "a"),
        ("count == '3'", "a"),
        ("count != '3'", "bc"),
        ("count in [3, -4]", "ab"),
        ("count is none", "c"),
        ("code == '007'", "a"),
        ("day == ''", "c"),
        ("row['count'] in ['3']", "a"),
    ],
)
def test_where_compares_cells_as_values_and_as_their_text(planner: Planner, where: str, kept: str) -> None:
    assert "".join(planner.build(planner.write("p.csv", ROWS), prompts={"where": where}).column("prompt")) == kept


def test_comparing_an_empty_cell_is_said_in_words(planner: Planner) -> None:
    (problem,) = planner.problems(planner.write("p.csv", ROWS), prompts={"where": "score > 0.4"})

    assert problem.startswith(
        "p.csv:3: where: '>' not supported between instances of null and 'float' (a value is null"
    )


def test_a_template_prints_cells_as_they_were_written_and_computes_with_them(planner: Planner) -> None:
    template = "{{ prompt }} {{ score or 0 }} {{ code }} {{ ok }} {{ (count or 0) * 2 }} {{ day }}"
    plan = planner.build(planner.write("p.csv", ROWS), prompts={"template": template})

    assert plan.column("prompt") == ["a 0.50 007 true 6 2026-11-01", "b 0 12 False -8 x", "c 1e-05 3 TRUE 0 "]


def test_a_column_of_several_files_has_the_type_that_holds_them_all(planner: Planner) -> None:
    planner.write("a.csv", "prompt,n,m\na,1,x\n")
    planner.write("b.jsonl", '{"prompt": "b", "n": 2.5, "m": true}')
    plan = planner.build(["a.csv", "b.jsonl"])

    assert dict(plan.summary.columns) == {"n": "double", "m": "string"}
    assert cells(plan, "n", "m") == [(1.0, "x"), (2.5, "true")]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (
            [{"prompt": "a", "negative_prompt": ""}, {"prompt": "b", "negative_prompt": None}, {"prompt": "c"}],
            ["", "x", "x"],
        ),
        ('prompt,negative_prompt\na,\nb,""\nc,dull\n', ["x", "x", "dull"]),
    ],
)
def test_an_empty_negative_prompt_says_none_and_no_value_takes_that_of_the_spec(
    planner: Planner, rows: Any, expected: list[str]
) -> None:
    source = planner.write("p.csv", rows) if isinstance(rows, str) else rows
    params = {"negative_prompt": "x"}

    assert planner.build(source, params=params).column("negative_prompt") == expected
    if not isinstance(rows, str):
        planner.write("p.jsonl", "\n".join(map(json.dumps, rows)))
        assert planner.build("p.jsonl", params=params).column("negative_prompt") == expected
        assert planner.build(source, params=params, version=1).column("negative_prompt") == ["x", "x", "x"]


@pytest.mark.parametrize(
    "packed", [gzip.compress, bz2.compress, lzma.compress, lambda data: pa.compress(data, "zstd", asbytes=True)]
)
@pytest.mark.parametrize("named", [True, False])
def test_packed_files_are_known_by_their_content(planner: Planner, packed: Any, named: bool) -> None:
    data = packed(b"prompt,n\na fox,1\n")
    ending = {b"\x1f": ".gz", b"B": ".bz2", b"\xfd": ".xz", b"(": ".zst"}[data[:1]]

    plan = planner.build(planner.write("p.csv" + (ending if named else ""), data))

    assert plan.column("prompt") == ["a fox"]


@pytest.mark.parametrize(
    "text",
    [
        '[{"prompt": "a", "n": 1}, {"prompt": "b", "n": null}]',
        '{"rows": [{"prompt": "a", "n": 1}, {"prompt": "b"}]}',
        '{"prompt": "a", "n": 1}\n{"prompt": "b", "n": null}\n',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_json_file_is_read(planner: Planner, text: str, encoding: str) -> None:
    plan = planner.build(planner.write("p.json", text.encode(encoding)))

    assert cells(plan, "prompt", "n") == [("a", 1), ("b", None)]


def test_a_json_array_of_texts_is_a_list_of_prompts(planner: Planner) -> None:
    assert planner.build(planner.write("p.json", '["a fox",\n"a cat"]')).column("prompt") == ["a fox", "a cat"]


@pytest.mark.parametrize("source", ["captions", "captions/*.txt"])
def test_a_folder_may_have_one_prompt_in_each_file(planner: Planner, source: str) -> None:
    planner.write("captions/b.v2.txt", "a cat\n\nasleep\r\n")
    planner.write("captions/a.txt", "\ufeffa fox\n")
    plan = planner.build(source, prompts={"format": "one_per_file"})

    assert cells(plan, "prompt_id", "prompt") == [("a", "a fox"), ("b.v2", "a cat\n\nasleep")]
    planner.write("captions/c.txt", " \n")
    assert planner.problems(source, prompts={"format": "one_per_file"})[0].startswith("captions/c.txt:1: prompt: the")


def test_lines_of_options_are_read_where_the_format_says_so(planner: Planner) -> None:
    first = '--prompt "a red fox" --negative_prompt "" --seed 7 --steps 20 --cfg_scale 5.5'
    planner.write("p.txt", "\n".join([first, "a cat", "--prompt b --seed -1"]))
    prompts, params = {"format": "a1111"}, {"negative_prompt": "x", "steps": 3, "guidance_scale": 2}
    plan = planner.build("p.txt", prompts=prompts, params=params)

    expected = [("a red fox", "", 20, 5.5), ("a cat", "x", 3, 2.0), ("b", "x", 3, 2.0)]
    assert cells(plan, "prompt", "negative_prompt", "steps", "guidance_scale") == expected
    assert plan.column("seed") == [7, *planner.build(["?", "a cat", "b"]).column("seed")[1:]]
    planner.write("q.txt", "--prompt a --outpath_samples x\n--prompt a fox\n")
    unknown, unpaired = planner.problems("q.txt", prompts=prompts)
    assert unknown.startswith("q.txt:1: '--outpath_samples' is none of --prompt, ")
    assert unpaired.startswith("q.txt:2: options and values do not pair up at 'fox'")


def test_the_sampler_of_a_line_of_options_is_a_column_that_may_feed_the_scheduler(planner: Planner) -> None:
    planner.write("p.txt", '--prompt "a fox" --sampler_name "DPM++ 2M Karras"\na cat\n')
    prompts = {"format": "a1111", "fields": {"scheduler": "scheduler"}}
    plan = planner.build("p.txt", prompts=prompts, model="avbatch/shapes64", backend={"kind": "diffusers"})

    assert plan.column("scheduler") == ["DPM++ 2M Karras", None]


def test_comments_of_a_text_file_are_left_out_where_the_spec_says_so(planner: Planner) -> None:
    planner.write("p.txt", "# animals\na fox\n  # more\n#1 in the charts\n")

    assert planner.build("p.txt", prompts={"comments": "#"}).column("prompt") == ["a fox"]
    assert planner.build("p.txt").column("prompt") == ["# animals", "a fox", "# more", "#1 in the charts"]


def test_a_list_of_file_names_is_read_as_files(planner: Planner) -> None:
    planner.write("names.txt", "a fox\n")
    planner.write("more/other.csv", "prompt,n\na cat,1\n")
    planner.write("with space.txt", "a dog\n")

    assert planner.build(["names.txt", "more/*.csv", "with space.txt"]).column("prompt") == ["a fox", "a cat", "a dog"]
    assert planner.build(["names.txt"], version=1).column("prompt") == ["names.txt"]
    assert planner.build([{"prompt": "names.txt"}]).column("prompt") == ["names.txt"]
    assert planner.build(["a sign that says README.txt"]).column("prompt") == ["a sign that says README.txt"]
    (mixed,) = planner.problems(["names.txt", "a cat"])
    assert "'names.txt' names a file, and 'a cat' does not" in mixed
    (missing,) = planner.problems(["names.txt", "lost.txt"])
    assert "lost.txt: no such file" in missing


def test_files_of_every_kind_follow_each_other_in_the_order_of_the_list(planner: Planner) -> None:
    planner.write("a.txt", "a fox\n")
    planner.write("more/2.json", '["a dog", {"prompt": "an owl", "kind": "bird"}]')
    planner.write("more/1.jsonl.zst", pa.compress(b'{"prompt": "a cat"}\n', "zstd", asbytes=True))
    fsspec.filesystem("memory").pipe("/odd/b.csv", b"prompt,kind\na bee,insect\n")

    plan = planner.build({"files": ["memory://odd/b.csv", "more/*", "a.txt"]})

    assert plan.column("prompt") == ["a bee", "a cat", "a dog", "an owl", "a fox"]
    assert plan.column("kind") == ["insect", None, None, "bird", None]
    listed = planner.build(["memory://odd/b.csv", "more/1.jsonl.zst", "more/2.json", "a.txt"])
    assert listed.summary.prompts_digest == plan.summary.prompts_digest


def test_every_file_that_is_missing_or_of_no_known_kind_is_named_with_its_place(planner: Planner) -> None:
    planner.write("b.xlsx", "PK")

    problems = planner.problems({"files": ["lost.txt", "b.xlsx", "none/*.csv"]})

    assert [problem.partition(": ")[2].partition(": ")[0] for problem in problems] == [
        "prompts.source.files[0]",
        "prompts.source.files[1]",
        "prompts.source.files[2]",
    ]
    assert "a spreadsheet: save it as CSV" in problems[1]


@pytest.mark.parametrize("image", [{"bytes": "aGk=", "path": "a.png"}, "data:image/png;base64,aGk="])
def test_images_inside_a_data_set_are_refused_with_what_to_do(planner: Planner, image: Any) -> None:
    (problem,) = planner.problems([{"prompt": "a", "image": image}], task="image_to_image")

    assert "(write" in problem and "path or URL" in problem
