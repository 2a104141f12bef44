"""Templates of a spec: what they may do, and that nothing they do takes long or much memory."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pytest

from abstractvision_batch.job.sandbox import TEMPLATE_ERRORS, SandboxedTemplates

ROW = {"prompt": "x" * 1000, "n": 3, "tags": ["b", "a", "b"], "made": {"by": "me"}, "at": datetime(2026, 11, 21, 3)}
LONG = "prompt.replace('x', prompt)"  # a million characters


def loops(count: int, body: str = "") -> str:
    return "{% for a in prompt %}" * count + body + "{% endfor %}" * count


def repeated(first: str, step: str, last: str = "{{ a|length }}") -> str:
    return f"{{% set a = {first} %}}" + f"{{% set a = {step} %}}" * 40 + last


ATTACKS = {
    "replace in a row": "{{ 'a'" + "|replace('a','aaaaaaaaaa')" * 12 + " }}",
    "replace of nothing": "{{ prompt.replace('', prompt).replace('', prompt).replace('', prompt) }}",
    "replace by keyword": "{{ prompt|replace(old='x', new=prompt)|replace(old='x', new=prompt) }}",
    "~": repeated("'a'", "a ~ a"),
    "~ of lists": repeated("[1]", "[a ~ a]"),
    "+": repeated("'a'", "a + a"),
    "+ of lists": repeated("[1]", "a + a"),
    "lists that share": repeated("[1]", "[a, a]", "{{ a }}"),
    "tuples that share": repeated("(1, 2)", "(a, a)", "{{ a|string }}"),
    "mappings that share": repeated("{'a': 1}", "{'a': a, 'b': a}", "{{ a == a }}"),
    "set blocks": "{% set a %}aaaa{% endset %}" + "{% set a %}{{a}}{{a}}{{a}}{{a}}{% endset %}" * 14,
    "a set block of a loop": "{% set a %}" + loops(3, "{{ prompt }}") + "{% endset %}",
    "a set block of a loop of constant text": "{% set a %}" + loops(2, "y" * 40_000) + "{% endset %}",
    "translate": "{{ prompt.translate({120: prompt}) }}",
    "loops": loops(6),
    "loops that print": loops(3, "{{ prompt }}"),
    "loops with a condition": "{% for a in prompt if a %}" * 6 + "{% endfor %}" * 6,
    "a loop in itself": "{% for a in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "slices in loops": "{% set b = " + LONG + " %}" + loops(2, "{% if b[1:] %}{% endif %}"),
    "comparisons in loops": "{% set b = " + LONG + " %}" + loops(2, "{% if 'y' in b %}{% endif %}"),
    "keys in loops": "{% set b %}" + loops(2, "{{ {'a': prompt}.values() }}") + "{% endset %}",
    "products": repeated("9", "a * a", "{{ a }}"),
    "powers": "{{ 9 ** 9 ** 9 }}",
    "text formatted by is odd": "{{ '%999999999d' is odd }}",
    "text formatted by is divisibleby": "{{ '%*d' is divisibleby((999999999, 3)) }}",
    "text formatted by %": "{{ '%999999999d' % 1 }}",
    "format": "{{ '{:>999999999}'.format(1) }}",
    "format_map": "{{ '{a:>999999999}'.format_map({'a': 1}) }}",
    "round to a large number of digits": "{{ 5|round(-100000000) }}",
    "round up to a large number of digits": "{{ 5|round(100000000, 'floor') }}",
    "bytes of a number": "{{ (5).to_bytes(10000000000, 'big') }}",
    "a number of hexadecimal digits": "{{ " + LONG + ".replace('x', 'f')|int(0, 16) }}",
    "join": "{% set a = prompt|join(prompt) %}{{ a|join(a) }}",
    "join, the method": "{% set a = prompt.join(prompt) %}{{ a.join(a) }}",
    "sum of lists": "{{ prompt|map('list')|sum(start=[]) }}",
    "map of a filter": "{{ prompt|map('replace', 'x', prompt)|map('replace', 'x', prompt)|join }}",
    "center": "{{ prompt.center(999999999) }}",
    "zfill": "{{ prompt.zfill(999999999) }}",
    "expandtabs": "{{ '\t'.expandtabs(999999999) }}",
    "strip of many": "{% set a = " + LONG + " %}{{ a.strip(a) }}",
    "trim of many": "{% set a = " + LONG + " %}{{ a|trim(a) }}",
    "striptags": "{{ prompt.replace('x', '<!---->' * 1)|striptags }}{{ " + LONG + "|striptags }}",
    "split": "{{ " + LONG + ".replace('x', 'x ', 400000).split() }}",
    "truncate with a long end": "{{ prompt|truncate(5, true, prompt) }}",
    "macros that call themselves": "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
    "macros that call themselves twice": (
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(100) }}"
    ),
    "macros around macros": (
        "{% macro m() %}{{ caller() }}{{ caller() }}{% endmacro %}"
        + ("{% call m() %}" * 18 + "x" * 1000 + "{% endcall %}" * 18)
    ),
    "filter blocks": "{% filter replace('a','aaaaaaaaaa') %}" * 12 + "a" + "{% endfilter %}" * 12,
    "a chain of attributes": "{{ prompt|map(attribute='" + "a." * 20_000 + "a')|list }}",
    "a message of a million characters": "{{ {}[" + LONG + "] }}",
    "nested lists": "{{ " + "[" * 300 + "]" * 300 + " }}",
    "nested loops": "{% for a in [1] %}" * 30 + "{% endfor %}" * 30,
    "nested conditions": "{% if prompt %}" * 120 + "{% endif %}" * 120,
    "parentheses": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "a long number": "{{ " + "9" * 40_000 + " }}",
    "a long hexadecimal number": "{{ 0x" + "f" * 40_000 + " }}",
    "a long template": "{{ prompt }}" * 10_000,
    "include": "{% include 'x' %}",
    "import": "{% import 'x' as y %}",
    "extends": "{% extends 'x' %}",
    "block": "{% block x %}{{ self.x() }}{% endblock %}",
    "a generator": "{{ prompt|map('upper') }}",
    "a method": "{{ prompt.upper }}",
    "the frame of a generator": "{{ (prompt|map('upper')).gi_frame }}",
    "a class": "{{ prompt.__class__.__mro__ }}",
    "strftime": "{{ at.strftime(prompt.replace('x', '%c')) }}",
}


def render(template: str, row: Mapping[str, Any] = ROW) -> str:
    environment = SandboxedTemplates()
    environment.begin()
    pieces, length = [], 0
    for piece in environment.from_string(template).generate(row):
        length += len(piece)
        if length > 100_000:  # as the plan does
            raise ValueError("the prompt is too long")
        pieces.append(piece)
    return "".join(pieces)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("template", ATTACKS.values(), ids=ATTACKS)
def test_what_would_take_long_or_much_memory_or_get_out_ends_at_once(template: str) -> None:
    begun = time.process_time()

    with pytest.raises(TEMPLATE_ERRORS):
        render(template)

    assert time.process_time() - begun < 2


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ n + 1 }} {{ n * 2 }} {{ n ** 2 }} {{ 7 % n }} {{ 7 // n }} {{ 'a' + 'b' ~ n }}", "4 6 9 1 2 ab3"),
        ("{{ tags|unique|sort|join(', ') }}, {{ tags|length }}", "a, b, 3"),
        ("{{ [{'a': 1}, {'a': 2}]|join('-', attribute='a') }}", "1-2"),
        ("{{ [{'a': 1}, {'a': 2}]|map(attribute='a')|sum }}", "3"),
        ("{% for k, v in made.items() %}{{ k }}={{ v }}{% endfor %}", "by=me"),
        ("{% for k, v in made|items %}{{ loop.index }}{{ k }}={{ v }}{% endfor %}", "1by=me"),
        ("{% for t in tags %}{{ loop.cycle('x', 'y') }}{{ t }}{{ '' if loop.last else ',' }}{% endfor %}", "xb,ya,xb"),
        ("{% for t in tags if t != 'b' %}{{ t }}{% endfor %}", "a"),
        ("{% macro m(x, y='!') %}{{ x|upper }}{{ y }}{% endmacro %}{{ m('a') }}{{ m('b', y='?') }}", "A!B?"),
        ("{% set x %} {{ n }} {% endset %}{{ x|trim }}", "3"),
        ("{% with x = 1 %}{{ x }}{% endwith %}{% filter upper %}a{% endfilter %}", "1A"),
        ("{{ made.get('to', 'you') }} {{ prompt[:3] }} {{ prompt.split('x')|length }}", "you xxx 1001"),
        ("{{ 'a-b'.replace('-', ' ').title() }} {{ '-'.join(tags) }} {{ tags.index('a') }}", "A B b-a-b 1"),
        ("{{ at.strftime('%Y') }} {{ at.isoformat() }} {{ at.date() }}", "2026 2026-11-21T03:00:00 2026-11-21"),
        ("{{ 2.567|round(1) }} {{ '12'|int + 1 }} {{ '1.5'|float }} {{ 4 is even }}", "2.6 13 1.5 True"),
        ("{{ 'red car'|truncate(6, leeway=0) }} {{ '<b>x</b>'|striptags }} {{ 'a b'|wordcount }}", "red... x 2"),
        ("{{ 'b' in tags }} {{ tags is iterable }} {{ none is none }} {{ tags|map('upper')|list }}", None),
    ],
)
def test_what_prompts_are_made_of_works(template: str, text: str | None) -> None:
    assert render(template) == (text or "True True True ['B', 'A', 'B']")


def test_a_row_with_a_long_text_is_read() -> None:
    assert render("{{ text|truncate(20) }}{{ text|length }}", {"text": "a " * 2**20}) == "a a a a a a a a...2097152"


def test_rows_that_all_take_long_do_not_take_that_long_each() -> None:
    environment = SandboxedTemplates()
    template = environment.from_string(loops(6))
    begun = time.process_time()

    for _ in range(1000):
        environment.begin()
        with pytest.raises(TEMPLATE_ERRORS):
            template.render(ROW)

    assert time.process_time() - begun < 10


def test_a_million_modest_rows_are_no_problem() -> None:
    environment = SandboxedTemplates()
    template = environment.from_string("{% for a in prompt %}{{ a }}{% endfor %}")

    for _ in range(300):  # of 2,000 steps each: together more than what rows may share
        environment.begin()
        template.render(ROW)
