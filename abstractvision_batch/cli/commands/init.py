"""`init`: a spec to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from abstractvision_batch.cli.command import JsonOption
from abstractvision_batch.cli.commands.schema import schema_path
from abstractvision_batch.cli.output import print_json, print_lines
from abstractvision_batch.errors import SpecError

STARTER_SPEC = """\
# yaml-language-server: $schema={schema}
#
# A job for avbatch. It runs as it stands, on the model that ships with the package.
#   avbatch validate {path}       check it; nothing is generated
#   avbatch run {path}            run it; the same command again resumes
version: 1
name: {name}
task: text_to_image                # `avbatch tasks` lists them
model: avbatch/shapes64            # `avbatch models` lists them, `avbatch show-model ID` shows one

backend:
  kind: diffusers                  # local generation; `procedural` draws test pictures without a model
  # device: auto                   # auto, cpu, cuda, cuda:1, mps

prompts:
  # Prompts in place; or a path, URL or glob of txt, csv, tsv, jsonl or parquet files:
  #   source: prompts.csv
  #   fields: {{prompt: caption}}    # the column that holds the prompt; other columns pass through to the manifest
  source:
    - a large red circle on a white background
    - a small blue square on the left on a grey background
    - a large yellow triangle at the top on a black background
    - a small green cross on the right on a white background
  # template: "{{{{ prompt }}}} on a black background"   # Jinja2 over the row's columns
  # limit: 2

params:                            # what is left out takes the model card's default
  seed: 7                          # each request's own seed is derived from this one
  # steps: 20
  # guidance_scale: 2.5
  # negative_prompt: a small blue square

# Every combination is generated for every prompt:
# matrix:
#   guidance_scale: [1.5, 2.5, 4.0]
#   steps: [10, 20]

samples_per_prompt: 2              # each with its own seed

output:
  path: runs/{name}                # a folder or a URL (s3://, gs://, az://); one run per folder
  image_format: png                # png, webp (both lossless) or jpeg

execution:
  executor: auto                   # inline, or ray where there are more GPUs than one, or an address of a cluster
  # batch_size: auto               # requests of one forward pass
"""


def init(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Where to write the spec.")] = Path("job.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a commented starter spec that runs as it stands."""
    text = STARTER_SPEC.format(schema=schema_path(), path=path, name=_job_name(path))
    try:
        with path.open("w" if force else "x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError as error:
        raise SpecError(f"{path}: exists already (--force overwrites it)") from error
    except OSError as error:
        raise SpecError(f"{path}: cannot be written: {error.strerror}") from error
    if as_json:
        print_json({"ok": True, "path": str(path)})
        return
    print_lines(f"wrote {path}", f"next: avbatch validate {path}", f"      avbatch run {path}")


def _job_name(path: Path) -> str:
    """The file's name as a job's name may be: letters, digits, dot, dash and underscore."""
    name = "".join(character if character.isascii() and character.isalnum() else "-" for character in path.stem)
    return name.strip("-")[:100] or "job"
