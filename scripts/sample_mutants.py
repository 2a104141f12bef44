"""Change the core of the package in one small place at a time, and see whether the tests of its room notice.

    python scripts/sample_mutants.py --count 60 --seed 1
    python scripts/sample_mutants.py --module abstractvision_batch/runs/manifest.py:121

A mutant that no test notices is printed with its line: a test is missing, or the change makes no difference. Each is
made in a copy of the checkout. Its tests are those that import its module, then those of the folder of its room's name,
then those of ALSO; tests on Ray and of real models are left out.

Left as they are: annotations, messages (f-strings), log calls, decorators, and numbers of constants in capitals, which
are tuned sizes.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from queue import SimpleQueue

PACKAGE = "abstractvision_batch"
CORE = ("plan", "prompts", "runs", "execute", "storage", "registry")
#: Tests of whole runs that show what a room does.
ALSO = {
    "execute": ("tests/verbs/test_run.py", "tests/verbs/test_run_budget.py", "tests/verbs/test_run_brake.py"),
    "runs": ("tests/verbs/test_run.py", "tests/verbs/test_audit.py", "tests/verbs/test_retry.py"),
    "plan": ("tests/verbs/test_extend.py",),
    "prompts": ("tests/verbs/test_run_inputs.py",),
    "registry": ("tests/test_model_capabilities.py", "tests/verbs/test_run_budget.py"),
    "storage": ("tests/verbs/test_run_store_faults.py", "tests/verbs/test_lock.py"),
}
NOT_RUN = "not slow and not ray and not model and not sdcpp"
COPIED = (
    PACKAGE,
    "tests",
    "specs",
    "registry",
    "examples",
    "benchmarks",
    "training",
    "docs",
    "pyproject.toml",
    "README.md",
)

SWAPS: dict[type[ast.cmpop] | type[ast.operator], tuple[bytes, bytes]] = {
    ast.Lt: (b"<", b"<="),
    ast.LtE: (b"<=", b"<"),
    ast.Gt: (b">", b">="),
    ast.GtE: (b">=", b">"),
    ast.Eq: (b"==", b"!="),
    ast.NotEq: (b"!=", b"=="),
    ast.Is: (b"is", b"is not"),
    ast.IsNot: (b"is not", b"is"),
    ast.In: (b"in", b"not in"),
    ast.NotIn: (b"not in", b"in"),
    ast.Add: (b"+", b"-"),
    ast.Sub: (b"-", b"+"),
}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one file: the bytes from ``start`` to ``end`` become ``new``."""

    path: Path
    source: bytes
    start: int
    end: int
    new: bytes

    @property
    def line(self) -> int:
        return self.source.count(b"\n", 0, self.start) + 1

    @property
    def text(self) -> bytes:
        return self.source[: self.start] + self.new + self.source[self.end :]

    def __str__(self) -> str:
        first = self.source.rfind(b"\n", 0, self.start) + 1
        last = self.source.find(b"\n", self.end)
        new = self.source[first : self.start] + self.new + self.source[self.end : last]
        return f"{self.path}:{self.line}\n  - {self.source[first:last].decode()}\n  + {new.decode()}"


class Mutations(ast.NodeVisitor):
    """Collects the changes of one file as (start, end, new bytes)."""

    def __init__(self, source: bytes) -> None:
        self.source = source
        self.found: list[tuple[int, int, bytes]] = []
        self.visit(ast.parse(source))

    @cached_property
    def line_starts(self) -> list[int]:
        return [0, *(match.end() for match in re.finditer(b"\n", self.source))]

    def span(self, node: ast.AST) -> tuple[int, int]:
        begin, end = (self.line_starts[getattr(node, name) - 1] for name in ("lineno", "end_lineno"))
        return begin + getattr(node, "col_offset"), end + getattr(node, "end_col_offset")  # noqa: B009

    def replace(self, node: ast.AST, new: bytes) -> None:
        self.found.append((*self.span(node), new))

    def swap(self, left: ast.AST, operator: ast.cmpop | ast.operator, right: ast.AST) -> None:
        """Swap the operator, which stands between the two, perhaps among parentheses."""
        if type(operator) in SWAPS:
            old, new = SWAPS[type(operator)]
            start = self.source.index(old, self.span(left)[1], self.span(right)[0])
            self.found.append((start, start + len(old), new))

    def visit_Compare(self, node: ast.Compare) -> None:
        for left, operator, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
            self.swap(left, operator, right)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if not any(isinstance(side, ast.JoinedStr | ast.List | ast.Tuple) for side in (node.left, node.right)):
            self.swap(node.left, node.op, node.right)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if not isinstance(node.value, ast.JoinedStr | ast.List | ast.Tuple):
            self.swap(node.target, node.op, node.value)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = (b"and", b"or") if isinstance(node.op, ast.And) else (b"or", b"and")
        spans = [self.span(value) for value in node.values]
        start = self.source.index(old, spans[0][1], spans[1][0])
        self.found.append((start, start + len(old), new))
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self.replace(node, b"(" + self.source[slice(*self.span(node.operand))] + b")")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self.replace(node, str(not node.value).encode())
        elif isinstance(node.value, int | float):
            self.replace(node, str(node.value + 1).encode())

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None and not (isinstance(node.value, ast.Constant) and node.value.value is None):
            self.replace(node, b"return None")
            self.generic_visit(node)

    def visit_Continue(self, node: ast.Continue) -> None:
        self.replace(node, b"pass")

    def visit_Break(self, node: ast.Break) -> None:
        self.replace(node, b"pass")

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        for constant in (b"True", b"False"):
            self.replace(node.test, constant)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in ("min", "max"):
            self.replace(node.func, {"min": b"max", "max": b"min"}[node.func.id])
        if not (isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) in ("log", "logger", "_log")):
            self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg not in ("frozen", "slots", "repr", "strict"):
            self.generic_visit(node)

    def visit_JoinedStr(self, _: ast.JoinedStr) -> None:
        """Leave a message as it is."""

    def visit_Assign(self, node: ast.Assign) -> None:
        if not all(isinstance(name, ast.Name) and name.id.strip("_").isupper() for name in node.targets):
            self.visit(node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value and not (isinstance(node.target, ast.Name) and node.target.id.strip("_").isupper()):
            self.visit(node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for part in (*node.args.defaults, *filter(None, node.args.kw_defaults), *node.body):
            self.visit(part)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for part in node.body:
            self.visit(part)


def find_mutants(root: Path, place: str) -> Iterator[Mutant]:
    """Yield the mutants of a folder or file, or of one line of it (``PATH:LINE``)."""
    name, _, line = place.partition(":")
    for file in [root / name] if name.endswith(".py") else sorted((root / name).rglob("*.py")):
        source = file.read_bytes()
        for start, end, new in Mutations(source).found:
            mutant = Mutant(file.relative_to(root), source, start, end, new)
            if not line or mutant.line == int(line):
                yield mutant


def find_tests(root: Path, path: Path) -> list[list[str]]:
    """Return the tests of a module in the order in which they are asked; each appears once."""
    dotted, room = ".".join(path.with_suffix("").parts), path.parts[1]
    tests = sorted(file.relative_to(root).as_posix() for file in (root / "tests").rglob("test_*.py"))
    near = [test for test in tests if re.search(rf"\b{dotted}\b", (root / test).read_text("utf-8"))]
    own = [test for test in tests if test.startswith(f"tests/{room}/") and test not in near]
    return [stage for stage in (near, own, [test for test in ALSO.get(room, ()) if test not in near]) if stage]


def run_tests(copy: Path, tests: list[str], timeout_s: int, stage_s: int) -> str:
    """Run the tests in a copy of the checkout. Returns why they do not pass, or an empty string."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", NOT_RUN]
    environment = os.environ | {"PYTHONPATH": str(copy), "TMPDIR": str(copy.parent)}
    process = subprocess.Popen(
        [*command, f"--timeout={timeout_s}", *tests],
        cwd=copy, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=stage_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return "timed out"
    if process.returncode in (0, 5):  # 5: no test was chosen
        return ""
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    reason = "timed out in" if "Timeout" in output else "killed by"
    return f"{reason} {failed[1] if failed else output.strip().splitlines()[-1]}"


def main() -> None:
    """Sample, try and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--module", action="append", metavar="PATH[:LINE]", help="in place of the core rooms")
    parser.add_argument("--count", type=int, default=60, help="how many mutants (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="another sample for another number")
    parser.add_argument("--jobs", type=int, default=1, help="how many at once, each in a copy of its own")
    parser.add_argument("--timeout", type=int, default=60, metavar="SECONDS", help="of one test")
    parser.add_argument("--no-baseline", action="store_true", help="do not run the tests of the unchanged tree first")
    arguments = parser.parse_args()
    root = Path(__file__).parent.parent.resolve()
    places = arguments.module or [f"{PACKAGE}/{room}" for room in CORE]
    mutants = [mutant for place in places for mutant in find_mutants(root, place)]
    sample = random.Random(arguments.seed).sample(mutants, min(arguments.count, len(mutants)))
    print(f"{len(sample)} of {len(mutants)} mutants", flush=True)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(arguments.jobs):
            copy = Path(scratch, str(number), "tree")
            copy.mkdir(parents=True)
            subprocess.run(["cp", "-r", *(root / name for name in COPIED if (root / name).exists()), copy], check=True)
            copies.put(copy)
        if not arguments.no_baseline:
            tests = {test for mutant in sample for stage in find_tests(copy, mutant.path) for test in stage}
            if why := run_tests(copy, sorted(tests), arguments.timeout, 3600):
                raise SystemExit(f"the tests of the unchanged tree do not pass: {why}")

        def judge(mutant: Mutant) -> str:
            copy = copies.get()
            try:
                (copy / mutant.path).write_bytes(mutant.text)
                outcomes = (run_tests(copy, tests, arguments.timeout, 900) for tests in find_tests(copy, mutant.path))
                why = next(filter(None, outcomes), "")
                print(f"{why or 'SURVIVED'}: {mutant}", flush=True)
                return why
            finally:
                (copy / mutant.path).write_bytes(mutant.source)
                copies.put(copy)

        with ThreadPoolExecutor(arguments.jobs) as pool:
            reasons = list(pool.map(judge, sample))
    survivors = [mutant for mutant, why in zip(sample, reasons, strict=True) if not why]
    print(f"\n{len(sample) - len(survivors)} of {len(sample)} were noticed", end="")
    print(f", {sum(why.startswith('timed out') for why in reasons)} of them by a time limit", end="")
    print("; these were not:\n" * bool(survivors) + "\n".join(map(str, survivors)))


if __name__ == "__main__":
    main()
