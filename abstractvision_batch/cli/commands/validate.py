"""`validate`: whether a spec and every prompt of it is right, without starting anything."""

from __future__ import annotations

from abstractvision_batch.cli.command import JsonOption, SpecArgument
from abstractvision_batch.cli.commands.plan import count_plan, describe_plan
from abstractvision_batch.cli.output import plural, print_json, print_lines, print_notes
from abstractvision_batch.cli.spec_options import TimedOptions


def validate(
    spec: SpecArgument,
    given: TimedOptions,
    as_json: JsonOption = False,
) -> None:
    """Check a spec and every prompt; start nothing.

    All problems are reported at once, each with its place in the file.
    """
    from abstractvision_batch.verbs.validate import validate as validate_job

    job = given.load(spec)
    found = validate_job(job)
    if as_json:
        print_json(
            {
                "ok": True,
                "problems": [],
                "missing": list(found.missing),
                "prompts_cut": found.prompts_cut,
                **describe_plan(job, found.plan),
            }
        )
        return
    print_lines(f"OK  {spec}: {count_plan(found.plan)}")
    print_notes(*(f"note: {line}" for line in found.plan.notes))
    print_notes(*(f"note: cannot run here: {line}" for line in found.missing))
    if found.prompts_cut:
        print_notes(
            f"note: the model reads only the beginning of {plural(found.prompts_cut, 'prompt')} "
            f"(up to {plural(found.tokens_cut, 'token')} are cut)"
        )
