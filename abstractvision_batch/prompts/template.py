"""Jinja2 over the columns of a row: the prompt's `template` and the `where` that chooses rows.

Strict: an unknown column is an error before the first row, wherever in the template it stands. Sandboxed and pure
(`job.sandbox`), so the same rows always give the same prompts. `row['a name']` reads a column whose name is no
identifier.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinja2 import TemplateSyntaxError, meta

from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import Job
from abstractvision_batch.job.sandbox import TEMPLATE_ERRORS, SandboxedTemplates
from abstractvision_batch.prompts.cells import TESTS
from abstractvision_batch.prompts.problems import suggest

#: What messages call Python's types.
_TYPE_NAMES = {"NoneType": "null", "IntegerCell": "a number", "NumberCell": "a number", "TruthCell": "a truth value"}
MAX_PROMPT_CHARACTERS = 100_000


class RowError(Exception):
    """The template or the expression fails for one row; the caller knows which."""


def compile_template(job: Job, columns: Sequence[str]) -> Callable[[Mapping[str, Any]], str] | None:
    """The function from a row to its prompt, or None where the spec has no template.

    Raises:
        SpecError: the template is not Jinja2, or names a column that there is not.
    """
    text = job.spec.prompts.template
    if text is None:
        return None
    environment = SandboxedTemplates(_refuse_null)
    environment.tests |= TESTS
    try:
        as_row = _check_names(job, "template", environment, text, columns)
        template = environment.from_string(text)
    except TemplateSyntaxError as error:
        raise SpecError(f"{job.at('prompts.template')}: line {error.lineno} of it: {error.message}") from error
    except RecursionError as error:
        raise SpecError(f"{job.at('prompts.template')}: it is nested too deeply") from error

    def render(row: Mapping[str, Any]) -> str:
        pieces, length = [], 0
        environment.begin()
        try:
            for piece in template.generate({"row": row, **row} if as_row else row):
                length += len(piece)
                if length > MAX_PROMPT_CHARACTERS:
                    raise RowError(f"template: the prompt passes {MAX_PROMPT_CHARACTERS} characters")
                pieces.append(piece)
        except TEMPLATE_ERRORS as error:
            raise RowError(f"template: {_said(error)}") from error
        return "".join(pieces)

    return render


def compile_where(job: Job, columns: Sequence[str]) -> Callable[[Mapping[str, Any]], bool] | None:
    """The predicate on rows, or None where the spec has none.

    Raises:
        SpecError: `where` is not a Jinja2 expression, or names a column that there is not.
    """
    text = job.spec.prompts.where
    if text is None:
        return None
    environment = SandboxedTemplates(None)
    environment.tests |= TESTS
    try:
        expression = environment.compile_expression(text, undefined_to_none=False)
        as_row = _check_names(job, "where", environment, "{{ (" + text + "\n) }}", columns)
    except TemplateSyntaxError as error:
        raise SpecError(f"{job.at('prompts.where')}: {error.message}") from error
    except RecursionError as error:
        raise SpecError(f"{job.at('prompts.where')}: it is nested too deeply") from error

    def keep(row: Mapping[str, Any]) -> bool:
        environment.begin()
        try:
            return bool(expression({"row": row, **row} if as_row else row))
        except TEMPLATE_ERRORS as error:
            raise RowError(f"where: {_said(error)}") from error

    return keep


def _check_names(job: Job, field: str, environment: SandboxedTemplates, text: str, columns: Sequence[str]) -> bool:
    """Whether the text says `row`, which stands for the whole row: `row['a name with spaces']`."""
    names = meta.find_undeclared_variables(environment.parse(text))
    unknown = sorted(names - {*columns, "row"})
    if unknown:
        lines = tuple(
            f"{job.at(f'prompts.{field}')}: the prompts have no column {name!r} ({suggest(name, columns)})"
            for name in unknown
        )
        raise SpecError("\n".join(lines), problems=lines)
    return "row" in names


def _said(error: Exception) -> str:
    """The message on one short line: it may quote a value of the template."""
    said = " ".join(str(error)[:300].split()) or type(error).__name__
    if isinstance(error, TypeError):
        for python, ours in _TYPE_NAMES.items():
            said = said.replace(f"'{python}'", ours)
        if "null" in said and "write" not in said:
            said += " (a value is null in this row: write NAME is not none and …)"
    return said


def _refuse_null(value: Any) -> Any:
    if value is None:
        raise TypeError("a value is null in this row (write {{ name or '' }})")
    return value
