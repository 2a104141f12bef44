"""The condition of a SQL WHERE over manifest rows, as an Arrow expression: ``error_kind = 'busy' AND seed < 100``.

    condition   and, or, not, parentheses
    comparison  = == != <> < <= > >=, [NOT] IN (...), [NOT] LIKE '%…_', [NOT] BETWEEN … AND …, IS [NOT] NULL
    value       column, "column with blanks", 'text', 12, -0.5, TRUE, FALSE, NULL

NULL is SQL's: a row for which the condition is unknown is left out. A condition is data: it calls no function and
needs no database, so every worker can judge its own rows. Not covered: arithmetic, functions, subqueries.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from abstractvision_batch.errors import SpecError

_TOKEN = re.compile(
    r"""\s*(?:(?P<text>'(?:[^']|'')*')|(?P<quoted>"(?:[^"]|"")+")|(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)
    |(?P<word>[^\W\d]\w*)|(?P<symbol><=|>=|<>|!=|==|[=<>(),]))""",
    re.VERBOSE,
)
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "=": lambda left, right: left == right,
    "==": lambda left, right: left == right,
    "!=": lambda left, right: left != right,
    "<>": lambda left, right: left != right,
    "<": lambda left, right: left < right,
    "<=": lambda left, right: left <= right,
    ">": lambda left, right: left > right,
    ">=": lambda left, right: left >= right,
}
_KEYWORDS = frozenset(["AND", "OR", "NOT", "IN", "IS", "NULL", "LIKE", "BETWEEN", "TRUE", "FALSE"])
#: Parentheses and NOTs inside each other.
MAX_DEPTH = 50
#: Words, values and symbols; Arrow's own recursion ends the process at some ten thousand.
MAX_TOKENS = 2000


def parse_condition(text: str, schema: pa.Schema) -> pc.Expression:
    """The expression of a condition over columns of `schema`.

    Raises:
        SpecError: it is no such condition, names an unknown column, or compares what cannot be compared.
    """
    expression = _Parser(text, schema).parse()
    try:
        schema.empty_table().filter(expression)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as exc:
        raise SpecError(f"{text!r}: {_first_line(exc)} (compare a column with a value of its type)") from exc
    return expression


class _Parser:
    """Recursive descent; every method takes what it reads off the front."""

    def __init__(self, text: str, schema: pa.Schema) -> None:
        self._text = text
        self._schema = schema
        self._columns = {name.casefold(): name for name in reversed(schema.names)}
        self._tokens = self._split()
        self._depth = 0

    def parse(self) -> pc.Expression:
        found = self._either()
        if self._tokens:
            raise self._wrong(f"{self._tokens[0][1]!r} is not expected there (AND or OR?)")
        return found

    def _split(self) -> list[tuple[str, str]]:
        tokens, at = [], 0
        text = self._text.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise self._wrong(f"{text[at:].strip()[:20]!r} cannot be read")
            tokens.append((str(match.lastgroup), match[str(match.lastgroup)]))
            at = match.end()
        if len(tokens) > MAX_TOKENS:
            raise SpecError(f"the condition has {len(tokens):,} words and values, more than {MAX_TOKENS:,}")
        return tokens

    def _either(self) -> pc.Expression:
        found = self._both()
        while self._take("OR"):
            found = found | self._both()
        return found

    def _both(self) -> pc.Expression:
        found = self._negated()
        while self._take("AND"):
            found = found & self._negated()
        return found

    def _negated(self) -> pc.Expression:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._wrong(f"more than {MAX_DEPTH} levels")
        if self._take("NOT"):
            found = ~self._negated()
        elif self._take("("):
            found = self._either()
            self._require(")")
        else:
            found = self._comparison()
        self._depth -= 1
        return found

    def _comparison(self) -> pc.Expression:
        left = self._value()
        if self._take("IS"):
            negated = self._take("NOT")
            self._require("NULL")
            return ~left.is_null() if negated else left.is_null()
        negated = self._take("NOT")
        if self._take("IN"):
            self._require("(")
            found = left == self._value()
            while self._take(","):
                found = found | (left == self._value())
            self._require(")")
        elif self._take("LIKE"):
            found = pc.match_like(left, self._literal_text())
        elif self._take("BETWEEN"):
            low = self._value()
            self._require("AND")
            found = (left >= low) & (left <= self._value())
        elif not negated and self._tokens and self._tokens[0][1] in _COMPARE:
            return _COMPARE[self._tokens.pop(0)[1]](left, self._value())
        elif not negated:
            return left == pc.scalar(True)  # a column of booleans, or an error when it is bound
        else:
            raise self._wrong("after NOT comes IN, LIKE or BETWEEN")
        return ~found if negated else found

    def _value(self) -> pc.Expression:
        if not self._tokens:
            raise self._wrong("it ends where a column or a value is expected")
        kind, token = self._tokens.pop(0)
        match kind:
            case "text":
                return pc.scalar(_unquoted(token))
            case "number":
                return pc.scalar(float(token) if re.search(r"[.eE]", token) else int(token))
            case "quoted":
                return self._column(_unquoted(token))
            case "word" if token.upper() in ("TRUE", "FALSE"):
                return pc.scalar(token.upper() == "TRUE")
            case "word" if token.upper() == "NULL":
                return pc.scalar(None)
            case "word" if token.upper() not in _KEYWORDS:
                return self._column(token)
        raise self._wrong(f"{token!r} stands where a column or a value is expected")

    def _column(self, name: str) -> pc.Expression:
        if name in self._schema.names:
            return pc.field(name)
        if name.casefold() in self._columns:
            return pc.field(self._columns[name.casefold()])
        raise self._wrong(f"no column {name!r} (text is in 'single quotes'; columns: {', '.join(self._schema.names)})")

    def _literal_text(self) -> str:
        if not self._tokens or self._tokens[0][0] != "text":
            raise self._wrong("after LIKE comes 'text' with % and _")
        return _unquoted(self._tokens.pop(0)[1])

    def _take(self, wanted: str) -> bool:
        if self._tokens and self._tokens[0][0] in ("word", "symbol") and self._tokens[0][1].upper() == wanted:
            self._tokens.pop(0)
            return True
        return False

    def _require(self, wanted: str) -> None:
        if not self._take(wanted):
            there = repr(self._tokens[0][1]) if self._tokens else "the end"
            raise self._wrong(f"{wanted} is expected instead of {there}")

    def _wrong(self, said: str) -> SpecError:
        return SpecError(f"{self._text!r}: {said}")


def _unquoted(token: str) -> str:
    quote = token[0]
    return token[1:-1].replace(quote * 2, quote)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
