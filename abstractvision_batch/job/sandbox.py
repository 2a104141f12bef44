"""Jinja2 as a spec may use it: strict, sandboxed, pure, and bounded in time and memory.

A spec may come from elsewhere, so each operation of a template is counted and the size of what it makes is checked,
before it is made where it could be large: operators, filters, tests, calls, slices, literals, loop steps, and the
text that blocks and macros collect. A template that passes a limit is an error of its row. There are no functions and
no random filters, so the same input always gives the same text. An unknown name is an error.

Not covered: the length of the text that a template prints (its callers count that).
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, Sequence, ValuesView
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from types import CodeType
from typing import Any

from jinja2 import (
    Environment,
    StrictUndefined,
    TemplateError,
    TemplateSyntaxError,
    nodes,
    pass_context,
    pass_environment,
)
from jinja2.exceptions import SecurityError
from jinja2.filters import make_attrgetter
from jinja2.runtime import LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from abstractvision_batch.job.scheduled_time import ScheduledTime

#: Of the source of a template.
MAX_TEMPLATE_CHARACTERS = 50_000
#: Of one value that a template makes.
MAX_CHARACTERS = 1_000_000
MAX_ITEMS = 100_000
MAX_BITS = 16_384
#: Of one rendering: about 0.1 s. A step is an operation, an item of a value, or 64 characters of one.
MAX_STEPS = 300_000
#: What many renderings may take together: so much, and so much more for each.
SHARED_STEPS = 1_000_000
STEPS_EACH = 10_000
_CHARACTERS_OF_STEP = 64
_STEPS_OF_CALL = 8

_FILTERS = """
abs capitalize count d default first float int items join last length list lower map max min reject rejectattr replace
reverse round select selectattr sort string striptags sum title trim truncate unique upper wordcount
"""
#: Methods that a template may call, by the type that they are of.
_METHODS_OF_TYPES = {
    str: """
    capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit isidentifier islower
    isnumeric isprintable isspace istitle isupper join lower lstrip partition removeprefix removesuffix replace rfind
    rindex rpartition rsplit rstrip split splitlines startswith strip swapcase title upper
    """,
    bytes: "hex",
    int: "bit_count bit_length conjugate",
    float: "conjugate hex is_integer",
    dict: "copy get items keys values",
    list: "copy count index",
    tuple: "count index",
    datetime: """
    astimezone ctime date isocalendar isoformat isoweekday replace strftime time timestamp timetz toordinal utcoffset
    weekday
    """,
    date: "ctime isocalendar isoformat isoweekday replace strftime toordinal weekday",
    time: "isoformat replace strftime utcoffset",
    timedelta: "total_seconds",
    Decimal: "is_finite is_nan is_signed normalize to_integral_value",
    ScheduledTime: "shift strftime",
    LoopContext: "changed cycle",
}
_METHODS: dict[type, frozenset[str]] = {type_: frozenset(names.split()) for type_, names in _METHODS_OF_TYPES.items()}
_SHORT_ARGUMENTS = frozenset({"lstrip", "rstrip", "strip", "strftime"})
#: What Jinja passes to whatever is called.
_OF_JINJA = frozenset({"_block_vars", "_loop_vars", "caller"})
_NUMBERS = (int, float, Decimal)
_ARITHMETIC_TESTS = frozenset({"divisibleby", "even", "odd"})
#: What takes quadratic time takes no more than this.
_FEW_CHARACTERS = 1_000
_FEW_ITEMS = 10_000

_STATEMENTS = (
    *(nodes.Template, nodes.Output, nodes.For, nodes.If, nodes.With, nodes.Assign, nodes.AssignBlock),
    *(nodes.FilterBlock, nodes.Macro, nodes.CallBlock, nodes.ExprStmt, nodes.Scope),
)
#: Filters that are put around nodes; no template can name them, because they have spaces in them.
_TAKE, _WEIGH, _PRINT = "take a value", "weigh a value", "print a value"
_COUNT, _STEPS, _CONCATENATE = "count steps", "step through", "concatenate all"

#: What a compiled template raises for an input that it does not fit.
TEMPLATE_ERRORS = (
    TemplateError,
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    AssertionError,  # some of Jinja's filters check their arguments so
    RuntimeError,
    MemoryError,
)


class _Meter:
    """How many steps are left."""

    def __init__(self) -> None:
        self.left = self._given = MAX_STEPS
        self._shared = SHARED_STEPS

    def begin(self) -> None:
        """Begin the next rendering."""
        self._shared = min(SHARED_STEPS, self._shared - (self._given - max(0, self.left)) + STEPS_EACH)
        self.left = self._given = min(MAX_STEPS, max(0, self._shared))


class SandboxedTemplates(ImmutableSandboxedEnvironment):
    """The environment in which templates of a spec are compiled; call `begin` before each rendering.

    Args:
        finalize: Called with each value that a template prints; None: they are printed as they are.
    """

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self, finalize: Callable[[Any], Any] | None = None) -> None:
        # Not optimized: the optimizer evaluates constants while it compiles, when nothing is counted.
        super().__init__(undefined=StrictUndefined, finalize=finalize, keep_trailing_newline=False, optimized=False)
        self._meter = _Meter()
        self.globals.clear()
        filters: dict[str, Callable[..., Any]] = {
            name: function for name, function in self.filters.items() if name in _FILTERS.split()
        }
        filters |= {"join": _join, "replace": _replace}
        self.filters = {name: self._counted(name, function) for name, function in filters.items()}
        self.filters |= {
            # With the context, as Jinja would evaluate those of constants while it compiles.
            _TAKE: pass_context(lambda _, value: self._take(value)),
            _WEIGH: pass_context(lambda _, value: self._weigh(value)),
            _PRINT: pass_context(lambda _, value: self._print(value)),
            _COUNT: pass_context(lambda _, steps: self._count(steps)),
            _STEPS: pass_context(lambda _, value: self._steps(value)),
            _CONCATENATE: pass_context(lambda _, values: self._take(_join(self, values))),
        }
        tests: dict[str, Any] = dict(self.tests)
        self.tests = {name: self._counted(name, function) for name, function in tests.items()}

    def begin(self) -> None:
        """Begin the next rendering, which has a number of steps of its own."""
        self._meter.begin()

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Apply an operator to values for which its result cannot be large."""
        self._count(weigh(left) + weigh(right))
        if operator in ("*", "**", "%"):
            if not (isinstance(left, int | float) and isinstance(right, int | float)):
                raise SecurityError(f"{operator} works on moderate numbers only")
            power = operator == "**" and (abs(left) > 1e6 or abs(right) > 100)
            if power or _bits(left) + _bits(right) > MAX_BITS:
                raise SecurityError(f"{operator} works on moderate numbers only")
        elif operator == "+" and isinstance(left, str) and isinstance(right, str):
            _require_characters(len(left) + len(right))
        return self._take(super().call_binop(context, operator, left, right))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Call a macro, or a method that cannot take long."""
        own = {name: value for name, value in kwargs.items() if name not in _OF_JINJA}
        __self._count(sum(map(weigh, (*args, *own.values()))) + _STEPS_OF_CALL)
        if isinstance(__obj, Macro):
            return __self._take(super().call(__context, __obj, *args, **kwargs))
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        known = next((names for type_, names in _METHODS.items() if isinstance(owner, type_)), frozenset())
        if name not in known:
            raise SecurityError(f"{name or type(__obj).__name__} cannot be called in a template")
        __self._count(weigh(owner))
        if name in _SHORT_ARGUMENTS:
            _require_few(args)
        if isinstance(owner, str) and name == "join":
            (pieces,) = args
            return __self._take(_join(__self, pieces, owner))
        if isinstance(owner, str) and name == "replace":
            return __self._take(_replace(owner, *args))
        result = super().call(__context, __obj, *args, **kwargs)
        return __self._take(list(result) if isinstance(result, KeysView | ValuesView | ItemsView) else result)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Read an attribute, as one step."""
        self._count(1)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Read an item, as one step."""
        self._count(1)
        return super().getitem(obj, argument)

    def wrap_str_format(self, value: Any) -> None:
        """Jinja would hand out a safe `str.format` before it asks `is_safe_attribute`; padding makes even that huge."""

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        return super()._generate(_Counting().visit(source), *args, **kwargs)

    def _compile(self, source: str, filename: str) -> CodeType:
        try:
            return super()._compile(source, filename)
        except (SyntaxError, MemoryError, OverflowError) as error:  # the limits of Python's own compiler
            raise TemplateSyntaxError("it is nested too deeply", 1) from error

    def _parse(self, source: str, *args: Any, **kwargs: Any) -> nodes.Template:
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            raise TemplateSyntaxError(f"it has more than {MAX_TEMPLATE_CHARACTERS:,} characters", 1)
        try:
            return super()._parse(source, *args, **kwargs)
        except ValueError as error:  # a number that is too long
            raise TemplateSyntaxError(str(error), 1) from error

    def _count(self, steps: int) -> None:
        meter = self._meter
        meter.left -= steps
        if meter.left < 0:
            raise SecurityError("it takes too long: more steps than a template may take")

    def _take(self, value: Any) -> Any:
        """The value, counted; a text, a number or a list that is too large is refused."""
        self._count(weigh(value, refuse=True))
        return value

    def _weigh(self, value: Any) -> Any:
        self._count(weigh(value))
        return value

    def _print(self, value: Any) -> Any:
        """The text that a value is printed as; null stays null, of which `finalize` has an opinion."""
        if type(value) is str and len(value) <= MAX_CHARACTERS:
            self._count(1 + len(value) // _CHARACTERS_OF_STEP)
            return value
        if value is None:
            return None
        if isinstance(value, Iterator) or (
            callable(value) and not isinstance(value, Undefined)
        ):  # what Python prints of them differs each time
            raise TypeError(f"a {type(value).__name__} is not a text (write |list after a filter, () after a method)")
        self._count(weigh(value))
        return self._take(str(value))

    def _steps(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self._count(1)
            yield value

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter or a test, with what goes in and what comes out counted."""
        wanted = getattr(getattr(function, "jinja_pass_arg", None), "name", None)
        guarded = name in _ARITHMETIC_TESTS or name in ("striptags", "unique")

        @pass_context
        def counted(context: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
            self._count(weigh(value))
            if args or kwargs or guarded:
                self._count(sum(map(weigh, (*args, *kwargs.values()))))
                value = self._guarded(name, value, args, kwargs)
            if wanted is None:
                result = function(value, *args, **kwargs)
            else:
                passed = {"context": context, "eval_context": context.eval_ctx, "environment": self}
                result = function(passed[wanted], value, *args, **kwargs)
            if isinstance(result, Iterator):
                return self._steps(result)
            return result if result is value else self._take(result)

        return counted

    def _guarded(self, name: str, value: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The value for a filter or a test, where its arguments cannot make it large or slow."""
        given = (*args, *kwargs.values())
        if name in _ARITHMETIC_TESTS and not all(isinstance(one, _NUMBERS) for one in (value, *given)):
            raise TypeError(f"{name}: is asked of numbers")  # of a text, % would be formatting
        if name == "round" and any(isinstance(one, int) and abs(one) > 100 for one in given):
            raise SecurityError("round: the precision is from -100 to 100")
        if name == "sum" and not all(isinstance(one, _NUMBERS) for one in (kwargs.get("start", 0), *args[1:])):
            raise TypeError("sum: adds numbers")
        if name == "trim":
            _require_few(given)
        if name == "striptags":
            _require_characters(len(str(value)), 100 * _FEW_CHARACTERS)
        if name == "unique":
            value = list(self._steps(value))
            if len(value) > _FEW_ITEMS:
                raise SecurityError(f"unique: more than {_FEW_ITEMS:,} items")
        return value


class _Counting(NodeTransformer):
    """Puts what counts around the nodes of a template, and refuses those that have no place in one."""

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        if isinstance(node, nodes.Stmt) and not isinstance(node, _STATEMENTS):
            said = f"{type(node).__name__.lower()} has no place in a template of a spec"
            raise TemplateSyntaxError(said, node.lineno)
        node = self.generic_visit(node, *args, **kwargs)
        match node:
            case nodes.Output():
                return self._visit_output(node)
            case nodes.For():
                if node.recursive:
                    raise TemplateSyntaxError("a recursive loop has no place in a template of a spec", node.lineno)
                node.iter = _filter(node.iter, _STEPS)
            case nodes.AssignBlock():
                node.filter = _filter(node.filter, _TAKE)
            case nodes.Concat():
                return _filter(nodes.Tuple(node.nodes, "load", lineno=node.lineno), _CONCATENATE)
            case nodes.Compare():
                node.expr = _filter(node.expr, _WEIGH)
                for operand in node.ops:
                    operand.expr = _filter(operand.expr, _WEIGH)
            case nodes.Getitem(arg=nodes.Slice()) | nodes.List() | nodes.Dict() | nodes.Tuple(ctx="load"):
                return _filter(node, _TAKE)
        return node

    @staticmethod
    def _visit_output(node: nodes.Output) -> list[nodes.Node]:
        steps = sum(len(child.data) for child in node.nodes if isinstance(child, nodes.TemplateData))
        steps //= _CHARACTERS_OF_STEP
        node.nodes = [
            child if isinstance(child, nodes.TemplateData) else _filter(child, _PRINT) for child in node.nodes
        ]
        counted = [nodes.ExprStmt(_filter(nodes.Const(steps), _COUNT), lineno=node.lineno)] if steps else []
        return [*counted, node]


def weigh(value: Any, *, refuse: bool = False) -> int:
    """Steps that it takes to go through a value, with all that it holds.

    Args:
        value: Any value of a template.
        refuse: Whether one that is larger than a template may make is an error; lists that are deep always are.

    Raises:
        SecurityError: it is too large.
    """
    if type(value) is str or isinstance(value, str):
        if refuse and len(value) > MAX_CHARACTERS:
            _require_characters(len(value))
        return 1 + len(value) // _CHARACTERS_OF_STEP
    if not isinstance(value, list | tuple | dict | set | frozenset | int | Decimal | bytes):
        return 1
    steps, waiting = 0, [value]
    while waiting:
        one = waiting.pop()
        steps += 1
        if steps > MAX_STEPS or (refuse and steps > MAX_ITEMS):
            raise SecurityError(f"a value has more than {MAX_ITEMS:,} items")
        if isinstance(one, str | bytes):
            steps += len(one) // _CHARACTERS_OF_STEP
        elif isinstance(one, dict):
            waiting += one.keys()
            waiting += one.values()
        elif isinstance(one, list | tuple | set | frozenset):
            waiting += one
        elif (isinstance(one, int) and one.bit_length() > MAX_BITS) or (
            isinstance(one, Decimal) and abs(one.adjusted()) > MAX_BITS
        ):
            raise SecurityError("a number is too large")
    return steps


def _filter(node: Any, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=1 if node is None else node.lineno)


@pass_environment
def _join(environment: Environment, value: Iterable[Any], d: Any = "", attribute: Any = None) -> str:
    """Jinja's `join`, of which the length is known before it is made."""
    if attribute is not None:
        value = map(make_attrgetter(environment, attribute), value)
    pieces, between, length = [], str(d), 0
    for one in value:
        pieces.append(str(one))
        length += len(pieces[-1]) + len(between)
        _require_characters(length - len(between))
    return between.join(pieces)


def _replace(value: Any, old: str, new: str, count: int | None = -1) -> str:
    """Jinja's `replace`, of which the length is known before it is made."""
    text, old, new, times = str(value), str(old), str(new), -1 if count is None else count
    found = text.count(old) if times < 0 else min(times, text.count(old))
    _require_characters(len(text) + found * max(0, len(new) - len(old)))
    return text.replace(old, new, times)


def _require_characters(length: int, limit: int = MAX_CHARACTERS) -> None:
    if length > limit:
        raise SecurityError(f"a text has more than {limit:,} characters")


def _require_few(arguments: Iterable[Any]) -> None:
    for one in arguments:
        if isinstance(one, str):
            _require_characters(len(one), _FEW_CHARACTERS)


def _bits(number: float) -> int:
    return number.bit_length() if isinstance(number, int) else 0
