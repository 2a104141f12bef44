"""What `docs/python.md` and the notebook show is what happens: every block of code and every cell is executed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import abstractvision_batch as avb

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/python.md").read_text(encoding="utf-8")
NOTEBOOK = ROOT / "examples/notebook.ipynb"


def test_every_call_of_the_page_works_in_the_order_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}

    for number, block in enumerate(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)):
        exec(compile(block, f"docs/python.md, block {number + 1}", "exec"), names)

    assert names["result"].exit_code == 0
    assert len(names["plan"]) == names["run"].counts.succeeded == 4
    assert names["data"].startswith(b"\x89PNG")
    assert {Path(state.path).name for state in avb.list_runs("runs")} == {"animals", "frame", "again"}


def test_the_page_names_every_function_that_is_public() -> None:
    functions = {name for name in avb.__all__ if name.islower() and name not in ("__version__", "is_artifact_ref")}

    assert {name for name in functions if not re.search(rf"\b{name}\(", PAGE)} == set()


@pytest.mark.model
def test_the_cells_of_the_notebook_run_as_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}

    for number, cell in enumerate(json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}, cell {number}", "exec"), names)

    assert (names["again"].generated, names["more"].generated, names["more"].skipped) == (0, 8, 8)
    assert names["strip"].size == (256, 64)


@pytest.mark.slow
@pytest.mark.model
def test_the_notebook_runs_and_shows_a_bar_and_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(NOTEBOOK, as_version=4)

    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    shown = "".join(str(output.get("data", {}).get("text/html", "")) for output in outputs)
    assert '<progress value="8" max="8"' in shown
    assert "inline (" in shown
    assert shown.count("data:image/png;base64,") == 8


def test_the_notebook_is_kept_without_output() -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]

    assert [cell["outputs"] for cell in cells] == [[]] * len(cells)
