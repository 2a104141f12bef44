"""Prompt files of every format, sound and broken."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from abstractvision_batch.errors import OptionalDependencyMissingError
from abstractvision_batch.job.load import load_job
from abstractvision_batch.plan.build import prompts_digest
from tests.support.planning import Planner

#: Quoting as it occurs in PartiPrompts and in what spreadsheets export.
TSV = (
    "Prompt\tCategory\tNote\n"
    "bond\tAbstract\t\n"
    'a wall with the words "Fly an airplane" on it\tOutdoor\t\n'
    '"G I G G L E" painted in thick letters\tIllustrations\t\n'
    'poker\tAnimals\tDescription of "Dogs Playing Poker"\n'
    '"a sign that says ""tab\there"""\tWriting\tquoted\n'
    '"two\nlines"\tWriting\tquoted\n'
    '"an open quote\tWriting\tliteral\n'
    "last\tWriting\t\n"
)


def test_txt_has_one_prompt_a_line_and_skips_blank_lines(planner: Planner) -> None:
    plan = planner.build(planner.write("p.txt", 'a fox\n\n  \n a cat \r\na dog, "quoted"'))

    assert plan.column("prompt") == ["a fox", "a cat", 'a dog, "quoted"']
    assert plan.column("prompt_id") == ["000000", "000001", "000002"]


def test_a_line_separator_character_does_not_end_a_line(planner: Planner) -> None:
    plan = planner.build(planner.write("p.txt", "a\u2028b\nc\x85d\n"))

    assert plan.column("prompt") == ["a\u2028b", "c\x85d"]


def test_a_byte_order_mark_is_not_part_of_the_first_column(planner: Planner) -> None:
    plan = planner.build(planner.write("p.csv", b"\xef\xbb\xbfprompt,kind\na fox,x\n"))

    assert plan.column("prompt") == ["a fox"]
    assert plan.schema.names[-1] == "kind"


def test_csv_quoting_follows_rfc_4180(planner: Planner) -> None:
    plan = planner.build(planner.write("p.csv", 'prompt,n\n"a ""red"" fox, sitting",1\r\n"two\nlines",2\n\nplain,3\n'))

    assert plan.column("prompt") == ['a "red" fox, sitting', "two\nlines", "plain"]


def test_tsv_keeps_words_in_quotes_and_undoes_quoting(planner: Planner) -> None:
    plan = planner.build(planner.write("p.tsv", TSV), prompts={"fields": {"prompt": "Prompt"}})

    assert plan.column("prompt") == [
        "bond",
        'a wall with the words "Fly an airplane" on it',
        '"G I G G L E" painted in thick letters',
        "poker",
        'a sign that says "tab\there"',
        "two\nlines",
        '"an open quote',
        "last",
    ]
    assert plan.column("Note")[3] == 'Description of "Dogs Playing Poker"'


def test_jsonl_columns_are_typed_over_all_rows(planner: Planner) -> None:
    lines = [
        '{"prompt": "a", "whole": 1, "mixed": 1, "part": 1, "bit": true, "deep": [1], "huge": 1}',
        '{"prompt": "b", "mixed": "x", "part": 0.5, "bit": false, "deep": "t", "huge": 9999999999999999999}',
        '{"prompt": "c", "late": "only here"}',
    ]
    plan = planner.build(planner.write("p.jsonl", "\n".join(lines)))

    types = {field.name: str(field.type) for field in plan.schema}
    assert [types[n] for n in ("whole", "mixed", "part", "bit", "deep", "huge", "late")] == [
        "int64", "string", "double", "bool", "string", "string", "string",
    ]  # fmt: skip
    assert plan.column("mixed") == ["1", "x", None]
    assert plan.column("part") == [1.0, 0.5, None]
    assert plan.column("deep") == ["[1]", '"t"', None]
    assert plan.column("huge") == ["1", "9999999999999999999", None]
    assert plan.column("late") == [None, None, "only here"]


def test_parquet_keeps_types_that_every_reader_knows(planner: Planner) -> None:
    table = pa.table(
        {
            "prompt": ["a", "b"],
            "n": pa.array([1, None], pa.int16()),
            "f": pa.array([0.5, 1.5], pa.float32()),
            "when": pa.array([0, 1], pa.timestamp("s")),
            "tags": [["x"], ["y", "z"]],
            "none": pa.nulls(2),
            "kind": pa.array(["k", "k"]).dictionary_encode(),
        }
    )
    pq.write_table(table, planner.folder / "p.parquet")
    plan = planner.build("p.parquet")

    assert [str(field.type) for field in plan.schema][-6:] == [
        "int64",
        "double",
        "string",
        "string",
        "string",
        "string",
    ]
    assert plan.column("n") == [1, None]
    assert plan.column("tags") == ['["x"]', '["y", "z"]']
    assert plan.column("when")[0] == "1970-01-01 00:00:00"


def test_gz_is_unzipped_whatever_is_inside(planner: Planner) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"prompt": ["a fox"]}), buffer)
    for name, content in (
        ("p.txt.gz", b"a fox\n"),
        ("p.csv.gz", b"prompt\na fox\n"),
        ("p.parquet.gz", buffer.getvalue()),
    ):
        planner.write(name, gzip.compress(content))
        assert planner.build(name).column("prompt") == ["a fox"]


def test_a_glob_reads_files_in_sorted_order_with_the_union_of_their_columns(planner: Planner) -> None:
    planner.write("data/b.csv", "prompt,b\nsecond,2\n")
    planner.write("data/a.csv", "prompt,a\nfirst,1\n")
    plan = planner.build("data/*.csv")

    assert plan.column("prompt") == ["first", "second"]
    assert plan.column("a") == [1, None]
    assert plan.column("b") == [None, 2]
    assert plan.summary.prompts_files == ("data/a.csv", "data/b.csv")


def test_a_url_is_fetched(planner: Planner) -> None:
    with fsspec.open("memory://bucket/prompts/p.txt", "wb") as stream:
        stream.write(b"from memory\n")

    assert planner.build("memory://bucket/prompts/*.txt").column("prompt") == ["from memory"]
    assert "no such file" in planner.problems("memory://bucket/other.txt")[0]
    assert "matches no file" in planner.problems("memory://bucket/none*.txt")[0]
    assert "is a folder" in planner.problems("memory://bucket/prompts")[0]


def test_the_digest_is_of_the_content_and_not_of_the_name(planner: Planner) -> None:
    def digest(source: object) -> str:
        spec = {"name": "j", "model": "avbatch/procedural", "backend": {"kind": "procedural"}, "output": {"path": "o"}}
        return prompts_digest(load_job({**spec, "prompts": {"source": source}}, base_dir=planner.folder))

    planner.write("a.txt", "a fox")
    planner.write("b.txt", "a fox")
    planner.write("c.txt", "a cat")

    assert digest("a.txt") == digest("b.txt") == planner.build("a.txt").summary.prompts_digest
    assert digest("a.txt") != digest("c.txt")
    assert digest(["a fox"]) == planner.build(["a fox"]).summary.prompts_digest
    assert digest([{"prompt": "a", "n": 1}]) == digest([{"n": 1, "prompt": "a"}])


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("latin.txt", "a fox\ncaf\xe9\n".encode("latin-1"), "latin.txt:2: byte 0xe9 at column 4 is not UTF-8"),
        ("latin.csv", "prompt\nb\xf6se".encode("cp1252"), "in Windows-1252 it is 'ö' (save the file as UTF-8)"),
        ("wide.txt", "a fox".encode("utf-16-le"), "wide.txt:1: a NUL byte: this is not text (UTF-16 without"),
        ("cut.txt", "a fox".encode("utf-16")[:-1], "cut.txt:1: not UTF-16, as its byte order mark says"),
        ("garbage.txt", bytes(range(256)) * 4, "garbage.txt:1: a NUL byte"),
        ("garbage.parquet", b"not parquet at all", "garbage.parquet: not a Parquet file"),
        ("garbage.txt.gz", b"not gzip", "garbage.txt.gz: the gzip file cannot be read"),
        ("cut.txt.gz", gzip.compress(b"a fox\n" * 99, mtime=0)[:-9], "cut.txt.gz: the gzip file cannot be read"),
        ("ragged.csv", b"prompt,n\na,1\nb\nc,1,2\n", "ragged.csv:3: 1 fields where the header has 2"),
        ("open.csv", b'prompt,n\na,1\n"b,1\nc,1\n', "open.csv:3: a quoted cell is not closed"),
        ("unquoted.csv", b'prompt,n\n"a" fox,1\n', "unquoted.csv:2: "),
        ("twice.csv", b"prompt,n,n\na,1,2\n", "twice.csv:1: two columns are called 'n'"),
        ("unnamed.csv", b"id,,prompt\n0,1,a\n", "unnamed.csv:1: column 2 has no name"),
        ("trailing.csv", b"prompt,n,,\na,1,,\nb,2,x,\n", "trailing.csv:3: 4 fields where the header has 2"),
        ("short.csv", b"prompt,n,steps\na,1\n", "short.csv:2: 2 fields where the header has 3: none for steps"),
        ("behind.csv", b'prompt,n\n"a" fox,1\n', "behind.csv:2: 'fox,1' stands after a closing quote"),
        ("german.csv", b"prompt;n\na;1\nb;1;2\nc;4\n", "german.csv:3: 3 fields where the header has 2"),
        ("bad.jsonl", b'{"prompt": "a"}\n{"prompt": \n', "bad.jsonl:2: not JSON: Expecting value"),
        ("nan.jsonl", b'{"prompt": "a", "x": NaN}\n', "nan.jsonl:1: not JSON: NaN is not a JSON value: write null"),
        ("deep.jsonl", b"[" * 100_000, "deep.jsonl:1: not JSON"),
        ("list.jsonl", b'["a"]\n', "list.jsonl:1: a JSON array (prompts.format: json reads it)"),
        ("half.jsonl", b'{"prompt": "\\ud800"}\n', "half.jsonl:1: prompt: half a surrogate pair"),
        ("name.jsonl", b'{"prompt": "a", "\\uD800": 1}\n', "name.jsonl:1: half a surrogate pair in a name"),
        ("return.tsv", b'prompt\tn\n"a{""x"" b"\r1\nb\t"\n', "return.tsv:2: 1 fields where the header has 2"),
        ("number.jsonl", b'{"prompt": 5}\n', "number.jsonl:1: prompt: 5 is not a text"),
        ("empty.txt", b"\n \n", "there is no prompt"),
        ("empty.csv", b"prompt\n", "there is no prompt"),
        ("blank.csv", b"prompt,n\n ,1\n", "blank.csv:2: prompt: the prompt is empty"),
        ("unknown.doc", b"a fox", "its ending does not tell the format"),
        ("sheet.xlsx", b"PK", "save it as CSV UTF-8"),
        ("object.json", b'{"a": [1], "b": [2]}', "object.json: an object of 'a', 'b', not an array of rows"),
        ("number.json", b"[1]", "number.json:row 1: neither a text nor a JSON object"),
        ("broken.json", b'[{"prompt": "a"},\n{"prompt" "b"}]', "broken.json:2: not JSON: Expecting ':' delimiter"),
        ("nan.json", b'[{"prompt": "a", "x": Infinity}]', "nan.json: not JSON: Infinity is not a JSON value"),
        ("options.txt", b'--prompt "a fox" --steps 20\n', "options.txt:1: --prompt is an option of AUTOMATIC1111"),
        ("not.zst", b"a fox", "not.zst: "),
        ("not.txt.zst", b"a fox", "not.txt.zst: the Zstandard file cannot be read"),
        ("cut.txt.xz", lzma.compress(b"a fox")[:-9], "cut.txt.xz: the xz file cannot be read"),
        ("cut.txt.bz2", bz2.compress(b"a fox")[:-9], "cut.txt.bz2: the bzip2 file cannot be read"),
        ("cut.txt.zst", pa.Codec("zstd").compress(b"a fox" * 99, asbytes=True)[:-9], "the Zstandard file cannot be"),
    ],
)
def test_a_broken_file_is_named_with_its_line(planner: Planner, name: str, content: bytes, expected: str) -> None:
    (problem, *_) = planner.problems(planner.write(name, content))

    assert expected in problem


def test_a_wholly_empty_csv_has_no_columns(planner: Planner) -> None:
    assert "columns: none" in planner.problems(planner.write("none.csv", b""))[0]


def test_every_bad_line_of_a_file_is_listed_up_to_twenty(planner: Planner) -> None:
    some = planner.problems(planner.write("some.csv", "prompt,n\n" + "a\n" * 3 + "b,1\n"))
    many = planner.problems(planner.write("many.csv", "prompt,n\n" + "a\n" * 300))

    assert [line.split(": ")[0] for line in some] == ["some.csv:2", "some.csv:3", "some.csv:4"]
    assert len(many) == 21
    assert many[-1] == "and 280 problems more"


def test_a_glob_may_climb_out_of_the_folder_of_the_spec(planner: Planner) -> None:
    planner.write("prompts/a.txt", "a fox")
    planner.write("specs[1]/x", "")

    assert Planner(planner.folder / "specs[1]").build("../prompts/*.txt").column("prompt") == ["a fox"]


@pytest.mark.parametrize("source", ["missing.txt", "a\0b.txt", "x" * 5000 + ".txt", "none/*.txt", "**/**x/[*.csv"])
def test_a_source_that_is_not_there_is_one_line(planner: Planner, source: str) -> None:
    (problem,) = planner.problems(source)

    assert problem.startswith("<spec>: prompts.source: ")


def test_a_folder_as_source_suggests_a_glob(planner: Planner) -> None:
    planner.write("prompts/a.txt", "a fox")

    (problem,) = planner.problems("prompts")

    assert "is a folder (name a file, or a glob such as prompts/*.txt" in problem


def test_a_file_whose_name_looks_like_a_glob_is_read(planner: Planner) -> None:
    assert planner.build(planner.write("p[1].txt", "a fox")).column("prompt") == ["a fox"]


def test_a_url_without_its_driver_names_the_extra(planner: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)

    with pytest.raises(OptionalDependencyMissingError, match=r'pip install "abstractvision_batch\[s3\]"'):
        planner.build("s3://bucket/p.txt")


def test_an_unknown_protocol_is_a_mistake_of_the_spec(planner: Planner) -> None:
    assert "nope" in planner.problems("nope://bucket/p.txt")[0]


def test_binary_columns_of_parquet_have_to_be_dropped(planner: Planner, tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a"], "pixels": [b"\x00\xff"]}), tmp_path / "p.parquet")

    assert "drop: [pixels]" in planner.problems("p.parquet")[0]
    assert "pixels" not in planner.build("p.parquet", prompts={"drop": ["pixels"]}).schema.names
