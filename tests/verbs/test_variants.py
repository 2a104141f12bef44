"""One job of several variants: each is planned, run, resumed and extended as a job of its own, in one run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import load_job
from abstractvision_batch.report.contact_sheet import CAPTION, GAP, HEADING, PICTURE, TITLE
from abstractvision_batch.runs.files import RECORD
from abstractvision_batch.runs.opened import open_run
from abstractvision_batch.verbs.audit import audit
from abstractvision_batch.verbs.diff import diff
from abstractvision_batch.verbs.lock import lock, require_locked
from abstractvision_batch.verbs.rerun import rerun
from abstractvision_batch.verbs.retry import retry
from abstractvision_batch.verbs.run import run
from abstractvision_batch.verbs.start import choose_output
from abstractvision_batch.verbs.status import status
from abstractvision_batch.verbs.verify import verify
from tests.support.jobs import MakeJob

FEW: dict[str, Any] = {"params": {"steps": 3}}
MANY: dict[str, Any] = {"params": {"steps": 9, "seed": 7}}
MATRIX: dict[str, Any] = {"matrix": {"guidance_scale": [3, 5]}, "params": {"steps": 4}}


def _rows(path: str | Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(Path(path) / "manifest.parquet").to_pylist()
    return rows


def _of(rows: list[dict[str, Any]], variant: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["variant"] == variant]


def test_each_variant_has_the_requests_that_it_would_have_as_a_job_of_its_own(
    make_job: MakeJob, tmp_path: Path
) -> None:
    rows = _rows(run(make_job(variants={"few": FEW, "grid": MATRIX})).path)

    for name, own in {"few": FEW, "grid": MATRIX}.items():
        sections: dict[str, Any] = {**own, "params": {**make_job()["params"], **own["params"]}}
        alone = _rows(run(make_job(**sections, output={"path": str(tmp_path / name)})).path)
        made = ["request_id", "seed", "batch_slot", "batch_size", "prompt", "status", "sha256", "pixel_sha256"]
        assert [[row[key] for key in made] for row in _of(rows, name)] == [[row[key] for key in made] for row in alone]
    assert [row["index"] for row in rows] == list(range(60))
    few, grid = _of(rows, "few"), _of(rows, "grid")
    assert [row["seed"] for row in few] == [row["seed"] for row in grid[:20]]  # so that pictures pair
    assert {row["shard"] for row in few}.isdisjoint(row["shard"] for row in grid)


def test_a_backend_of_the_same_kind_is_merged_and_null_takes_a_key_away(make_job: MakeJob) -> None:
    job = load_job(
        make_job(
            backend={"kind": "procedural", "delay_s": 0.5, "fail_when": "dog"},
            variants={"a": {"backend": {"fail_when": None}, "params": {"width": None}}, "b": FEW},
        )
    )

    first, second = job.specs
    assert first.backend.model_dump(exclude_defaults=True) == {"delay_s": 0.5}
    assert (first.params.width, first.params.height, first.params.seed) == (None, 24, 7)
    assert (second.params.width, second.params.steps) == (32, 3)


def test_a_backend_without_its_kind_is_of_the_default_kind() -> None:
    spec = {"name": "x", "prompts": {"source": ["a fox"]}, "output": {"path": "x"}, "seeds": [1, 2]}
    flux = "black-forest-labs/FLUX.1-dev"
    variants = {"plain": {"model": flux}, "small": {"model": flux, "backend": {"quantization": "nf4"}}}

    plain, small = load_job({**spec, "variants": variants}).specs

    assert plain.backend.model_dump(exclude_defaults=True) == {}
    assert small.backend.model_dump(exclude_defaults=True) == {"quantization": "nf4"}


def test_a_variant_may_have_samples_where_the_others_have_seeds(make_job: MakeJob) -> None:
    job = make_job(
        samples_per_prompt=1, seeds=[1, 2], variants={"a": FEW, "b": {"seeds": None, "samples_per_prompt": 3}}
    )

    rows = _rows(run(job).path)
    again = run(job)

    assert [row["seed"] for row in _of(rows, "a")][:2] == [1, 2]
    assert len(_of(rows, "b")) == 15
    assert again.generated == 0


def test_every_problem_of_every_variant_is_said_at_its_place(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "name: wrong\n"
        "backend: {kind: procedural}\n"
        "prompts: {source: [a fox]}\n"
        "params: {steps: 20000}\n"
        "output: {path: out}\n"
        "variants:\n"
        "  one: {model: avbatch/procedural, params: {steps: 5, width: 0}}\n"
        "  two: {model: avbatch/procedura, params: {steps: 6}}\n"
        "  three: {model: avbatch/procedural, modle: x}\n"
        "  four: {model: avbatch/procedural, execution: {max_attempts: 3}}\n"
    )

    with pytest.raises(SpecError) as caught:
        load_job(spec)

    lines = [line.removeprefix(f"{spec}:") for line in caught.value.problems]
    assert lines[0].startswith("4:10: params.steps: 20000 is not") and lines[0].endswith("(in variant three, four)")
    assert lines[1].startswith("7:55: variants.one.params.width: 0")
    assert lines[2] == (
        '8:9: variants.two.model: no card has the id "avbatch/procedura" (did you mean avbatch/procedural?)'
    )
    assert lines[3] == "9:38: variants.three.modle: no field of a variant (did you mean model?)"
    assert lines[4].startswith("10:49: variants.four.execution.max_attempts: is of the whole job")
    assert len(lines) == 5


def test_two_variants_that_are_the_same_job_are_refused(make_job: MakeJob) -> None:
    with pytest.raises(SpecError, match=r"variants\.twin: is the same job as variant few"):
        load_job(make_job(variants={"few": FEW, "twin": {"params": {"steps": 3}, "backend": {"delay_s": 0.1}}}))


def test_two_variants_that_share_requests_are_refused(make_job: MakeJob) -> None:
    one, other = {"matrix": {"steps": [3, 4]}}, {"matrix": {"steps": [4, 5]}}

    with pytest.raises(SpecError, match=r"variants\.other: 20 of its requests are also those of variant one"):
        run(make_job(variants={"one": one, "other": other}))


def test_a_run_is_resumed_whatever_its_variants_are_called_since(make_job: MakeJob) -> None:
    result = run(make_job(variants={"few": FEW, "many": MANY}))
    before = _rows(result.path)
    folder = Path(result.path)
    (folder / "manifest.parquet").unlink()
    for shard in (1, 7):
        (folder / f"manifest/{shard:05d}-a0.parquet").unlink()

    again = run(make_job(variants={"renamed": MANY, "few": FEW}))

    assert (again.generated, again.succeeded) == (8, 40)
    made = ["index", "request_id", "variant", "sha256"]
    assert [[row[key] for key in made] for row in _rows(folder)] == [[row[key] for key in made] for row in before]


def test_a_run_grows_by_a_variant_and_by_prompts_of_all(make_job: MakeJob) -> None:
    run(make_job(variants={"few": FEW, "many": MANY}))

    grown = run(make_job(variants={"few": FEW, "many": MANY, "grid": MATRIX}), extend=True)
    more = {"source": [*make_job()["prompts"]["source"], "a crow"]}
    longer = run(make_job(variants={"few": FEW, "many": MANY, "grid": MATRIX}, prompts=more), extend=True)

    assert (grown.generated, longer.generated) == (40, 16)
    rows = _rows(longer.path)
    assert {name: len(_of(rows, name)) for name in ("few", "many", "grid")} == {"few": 24, "many": 24, "grid": 48}
    assert audit(longer.path).findings == ()
    with pytest.raises(SpecError, match="lacks 24 of the 96 requests there"):
        run(make_job(variants={"few": FEW, "grid": MATRIX}, prompts=more), extend=True)


def test_a_run_grows_though_its_variants_are_called_otherwise_since(make_job: MakeJob) -> None:
    run(make_job(variants={"few": FEW, "many": MANY}))

    renamed: dict[str, Any] = {"grid": MATRIX, "lots": MANY, "few": FEW}
    grown = run(make_job(variants=renamed), extend=True)

    assert (grown.generated, run(make_job(variants=renamed)).generated) == (40, 0)
    rows = _rows(grown.path)
    assert {name: len(_of(rows, name)) for name in ("few", "many", "grid")} == {"few": 20, "many": 20, "grid": 40}
    assert {*open_run(grown.path).record.specs} == {"few", "many", "grid"}
    assert audit(grown.path).findings == () and verify(grown.path).exit_code == 0
    with pytest.raises(SpecError, match=r"few is another variant in the run there .give the new one another name"):
        run(make_job(variants={**renamed, "few": {"params": {"steps": 77}}, "less": FEW}), extend=True)


def test_a_new_variant_cannot_take_requests_of_another(make_job: MakeJob) -> None:
    run(make_job(variants={"few": FEW, "many": MANY}))
    greedy = {"matrix": {"steps": [9, 10]}}

    with pytest.raises(SpecError, match=r"variants\.greedy: is not in the run there, and requests of it are"):
        run(make_job(variants={"few": FEW, "many": MANY, "greedy": greedy}), extend=True)


def test_a_run_without_variants_does_not_become_one_with_them(make_job: MakeJob) -> None:
    alone, several = make_job(), make_job(variants={"base": {}, "few": FEW})
    run(alone)

    with pytest.raises(SpecError, match=r"variants: --extend .* has variants where the run there has none .--new-run"):
        run(several, extend=True)
    assert run(choose_output(load_job(several))).succeeded == 40
    with pytest.raises(SpecError, match="has no variants where the run there has some"):
        run({**alone, "output": {"path": f"{alone['output']['path']}-2"}}, extend=True)


def test_failed_rows_of_one_variant_are_retried(make_job: MakeJob) -> None:
    failing = {"backend": {"fail_when": "dog"}}
    result = run(make_job(variants={"few": FEW, "many": {**MANY, **failing}, "grid": {**MATRIX, **failing}}))
    assert result.failed == 12

    again = retry(result.path, where="variant = 'grid'", overrides=["variants.grid.backend.fail_when=null"])

    assert (again.generated, again.failed) == (8, 4)
    assert {row["variant"] for row in _rows(result.path) if row["status"] == "failed"} == {"many"}


def test_verify_and_rerun_give_the_pixels_of_every_variant(make_job: MakeJob, tmp_path: Path) -> None:
    result = run(make_job(variants={"few": FEW, "many": MANY}))

    report = verify(result.path, sample=None)
    copy = rerun(result.path, tmp_path / "copy")

    assert (report.generated_again, report.identical, report.exit_code) == (40, 40, 0)
    assert [spec.params.steps for spec in copy.run.record.specs.values()] == [3, 9]
    assert [row["sha256"] for row in _rows(copy.path)] == [row["sha256"] for row in _rows(result.path)]


def test_a_variant_that_is_planned_again_after_a_crash_is_planned_the_same(make_job: MakeJob) -> None:
    spec = make_job(variants={"few": FEW, "grid": {**MATRIX, "execution": {"batch_size": 3}}})
    result = run(spec)
    folder = Path(result.path)
    plans = {file.name: file.read_bytes() for file in (folder / "plan").iterdir()}
    for file in (folder / "plan").iterdir():
        file.unlink()

    assert run(spec).exit_code == 0
    assert {file.name: file.read_bytes() for file in (folder / "plan").iterdir()} == plans


def test_a_recorded_variant_that_its_spec_does_not_have_is_damage(make_job: MakeJob) -> None:
    result = run(make_job(variants={"few": FEW, "many": MANY}))
    record = Path(result.path) / RECORD
    data = json.loads(record.read_text())
    data["variants"][0]["name"] = "another"
    record.write_text(json.dumps(data))

    with pytest.raises(Exception, match="damaged: variants: not those of its spec"):
        open_run(result.path)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_variants_on_ray_write_the_same_manifest(make_job: MakeJob, tmp_path: Path) -> None:
    variants = {"few": FEW, "many": MANY, "grid": {**MATRIX, "execution": {"cpus_per_actor": 1}}}
    inline = run(make_job(variants=variants))
    execution = {"executor": "ray", "batch_size": 2, "shard_size": 4, "cpus_per_actor": 0.5}
    on_ray = run(make_job(variants=variants, execution=execution, output={"path": str(tmp_path / "ray")}))

    same = [name for name in pa.Table.from_pylist(_rows(inline.path)).column_names if name in _STABLE]
    assert [[row[key] for key in same] for row in _rows(on_ray.path)] == [
        [row[key] for key in same] for row in _rows(inline.path)
    ]


_STABLE = {"index", "request_id", "variant", "seed", "batch_id", "shard", "status", "file_name", "sha256"}


def test_two_variants_of_a_run_are_compared_picture_by_picture(make_job: MakeJob) -> None:
    result = run(make_job(variants={"few": FEW, "many": MANY}))

    report = diff(result.path, variants=("few", "many"))

    assert (report.paired, report.identical, len(report.only_left)) == (20, 0, 0)
    assert report.changed_columns == {"steps": 20}
    assert [(change.kind, change.name) for change in report.changes] == [("identity", "params.steps")]
    with pytest.raises(SpecError, match=r"no variant 'manny' .did you mean many"):
        diff(result.path, variants=("few", "manny"))


def test_a_recorded_variant_gets_no_variable_of_whoever_retries_the_run(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN_OF_MINE", "secret")
    result = run(make_job(variants={"few": FEW, "failing": {"backend": {"fail_when": "fox"}, **MANY}}))
    record = Path(result.path) / RECORD
    data = json.loads(record.read_text())
    data["variants"][1]["settings"] = data["spec"]["variants"]["failing"]["backend"]["journal_path"] = (
        "/tmp/${TOKEN_OF_MINE}"
    )
    record.write_text(json.dumps(data))

    with pytest.raises(SpecError, match=r"\$\{TOKEN_OF_MINE\}|would"):
        retry(result.path)


def test_status_says_how_far_each_variant_is(make_job: MakeJob) -> None:
    result = run(make_job(variants={"few": FEW, "grid": {**MATRIX, "backend": {"fail_when": "dog"}}}))

    found = {
        one.name: (one.requests, one.succeeded, one.failed, one.shards_done) for one in status(result.path).variants
    }

    assert found == {"few": (20, 20, 0, 5), "grid": (40, 32, 8, 10)}


def test_a_lock_pins_every_variant(make_job: MakeJob, tmp_path: Path) -> None:
    spec = tmp_path / "job.yaml"
    spec.write_text(yaml.safe_dump(make_job(variants={"few": FEW, "many": MANY})))
    lock(load_job(spec))

    assert require_locked(load_job(spec)).variants[0].variant == "few"
    spec.write_text(yaml.safe_dump(make_job(variants={"few": FEW, "other": {"params": {"steps": 8}}})))
    with pytest.raises(SpecError, match="variants: few, many locked, few, other now"):
        require_locked(load_job(spec))


def test_the_contact_sheet_has_a_column_for_each_variant(make_job: MakeJob) -> None:
    result = run(make_job(variants={"few": FEW, "many": MANY, "grid": MATRIX}))

    assert result.contact_sheet_path is not None
    with Image.open(result.contact_sheet_path) as sheet:
        columns, lines = 3, 16
        assert sheet.size == (GAP + columns * (PICTURE + GAP), TITLE + HEADING + lines * (PICTURE + CAPTION + GAP))
