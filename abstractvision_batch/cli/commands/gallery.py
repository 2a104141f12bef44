"""`gallery`: the page of a run."""

from __future__ import annotations

from abstractvision_batch.cli.command import JsonOption, StorageOption
from abstractvision_batch.cli.commands.status import RunArgument, locate_run
from abstractvision_batch.cli.output import plural, print_json, print_lines
from abstractvision_batch.cli.spec_options import SpecOptions
from abstractvision_batch.text.to_json import to_json


def gallery(
    path: RunArgument,
    given: SpecOptions,
    storage_options: StorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a page to look at a run with, into its folder: search, filter, sort, compare parameters, label.

    A run writes it at its end by itself (output.gallery); this is for one that still goes on, or was made before.
    """
    from abstractvision_batch.verbs.gallery import gallery as write_gallery

    folder, options = locate_run(path, storage_options, given)
    written = write_gallery(folder, options)
    if as_json:
        print_json({"ok": True, **to_json(written)})
    else:
        made = f", {plural(written.thumbnails, 'thumbnail')} made" if written.thumbnails else ""
        print_lines(f"gallery    {written.path}", f"shows      {plural(written.rows, 'request')}{made}")
