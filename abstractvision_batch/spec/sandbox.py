"""Jinja2 as a spec may use it: strict, sandboxed and pure.

No function, no random filter, nothing that grows without its input growing, so a spec from elsewhere can do no harm,
and the same input always gives the same text. An unknown name is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import StrictUndefined, TemplateError
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

_FILTERS = frozenset(
    {
        *("abs", "capitalize", "count", "d", "default", "first", "float", "int", "items", "join", "last", "length"),
        *("list", "lower", "map", "max", "min", "reject", "rejectattr", "replace", "reverse", "round", "select"),
        *(
            "selectattr",
            "sort",
            "string",
            "striptags",
            "sum",
            "title",
            "trim",
            "truncate",
            "unique",
            "upper",
            "wordcount",
        ),
    }
)
#: Methods that make long text of a short row.
_GROWING_METHODS = frozenset({"center", "encode", "expandtabs", "format", "format_map", "ljust", "rjust", "zfill"})
#: What a compiled template raises for an input that it does not fit.
TEMPLATE_ERRORS = (
    TemplateError,
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    RecursionError,
)


class SandboxedTemplates(ImmutableSandboxedEnvironment):
    """The environment in which templates of a spec are compiled.

    Args:
        finalize: Called with each value that a template prints; None: they are printed as they are.
    """

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self, finalize: Callable[[Any], Any] | None = None) -> None:
        super().__init__(undefined=StrictUndefined, finalize=finalize, keep_trailing_newline=False)
        self.globals.clear()
        self.filters = {name: function for name, function in self.filters.items() if name in _FILTERS}

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if not numbers or (operator == "**" and (abs(left) > 1e6 or abs(right) > 100)):
            raise SecurityError(f"{operator} works on moderate numbers only")
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> None:
        """Jinja would hand out a safe `str.format` before it asks `is_safe_attribute`; padding makes even that huge."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr not in _GROWING_METHODS and super().is_safe_attribute(obj, attr, value)
