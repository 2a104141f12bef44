"""A job knows how it was given: where each field stands, the command line that gives it, the store it writes to."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import yaml

from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import GivenSpec, load_job
from abstractvision_batch.registry.cards import packaged_folder
from tests.support.jobs import MakeJob

NIGHT = datetime(2026, 11, 21, 3, tzinfo=ZoneInfo("Europe/Berlin"))


@pytest.fixture
def spec(tmp_path: Path, make_job: MakeJob) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump({**make_job(), "output": {"path": str(tmp_path / "{{ date }}")}}, sort_keys=False))
    return path


def test_a_field_is_placed_in_the_file_or_at_the_option_that_set_it(spec: Path) -> None:
    job = load_job(spec, overrides=["params.seed=3"], scheduled_at=NIGHT)
    line = spec.read_text().splitlines().index("output:") + 2

    assert job.at("output.path") == f"{spec}:{line}:3: output.path"
    assert job.at(("params", "seed")) == "--set params.seed=3: params.seed"
    assert job.at(("prompts", "source", 1)).endswith(": prompts.source[1]")


def test_the_words_of_a_job_say_everything_that_it_was_given_with(spec: Path) -> None:
    card = packaged_folder() / "avbatch.yaml"
    job = load_job(spec, overrides=["params.seed=3", "name=mine"], registry_paths=[card], scheduled_at=NIGHT)

    assert job.given.argv("plan") == [
        *("plan", str(spec), "--set", "params.seed=3", "--set", "name=mine", "--registry", str(card)),
        *("--at", "2026-11-21T03:00:00+01:00", "--timezone", "Europe/Berlin"),
    ]


def test_overrides_go_over_those_that_a_spec_was_given_with(spec: Path) -> None:
    given = GivenSpec(spec, ("params.seed=3", "name=first"), scheduled_at=NIGHT)

    job = load_job(given, overrides=["name=second"])

    assert (job.spec.name, job.spec.params.seed, job.scheduled_at) == ("second", 3, NIGHT)


def test_an_output_that_cannot_be_opened_is_blamed_on_its_field(make_job: MakeJob) -> None:
    unknown = load_job(make_job(output={"path": "gopher://host/run"}))
    unset = load_job(make_job(output={"path": "memory://run", "storage_options": {"token": {"env": "NOT_SET_HERE"}}}))

    with pytest.raises(SpecError, match=r"^<spec>: output\.path: gopher://host/run"):
        unknown.open_output()
    with pytest.raises(SpecError, match=r"^<spec>: output\.storage_options\.token: environment variable NOT_SET_HERE"):
        unset.open_output()
