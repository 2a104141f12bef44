"""What a person should know of a plan that can be run as it is: one line each, counted where there are many of a kind.

A plan carries its notes (`PlanSummary.notes`, and so `run.json`): `validate`, `plan` and `run` print them, and have
them in their JSON. Whatever is wrong is a problem instead (`problems`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator

from abstractvision_batch.job.load import Job
from abstractvision_batch.job.model import Fields
from abstractvision_batch.prompts.grammar import find_grammar
from abstractvision_batch.prompts.mapping import ColumnMap
from abstractvision_batch.prompts.prompts import Prompt
from abstractvision_batch.text.suggestions import foreign_name_of, squeeze

_SHOWN = 10
_SHOWN_WORDS = 5
_SHOWN_CHARACTERS = 60
#: Of two names that are one with a slip of the fingers: `widht`, `negativ_prompt`; `weight` is no `height`.
_NEAR = 0.78
#: What data sets call our fields, without case, dashes, underscores and spaces; parameters have names of their own.
_COLUMNS = {
    "neg": "negative_prompt",
    "negprompt": "negative_prompt",
    "imagepath": "image",
    "imageurl": "image",
    "imagefile": "image",
    "initimage": "image",
    "sourceimage": "image",
    "maskpath": "mask",
    "maskurl": "mask",
    "imagewidth": "width",
    "imageheight": "height",
}
#: What a column may be of a parameter that only some backends have; it feeds that where the spec says so.
_OTHERS = {
    "sampler": "scheduler",
    "samplername": "scheduler",
    "scheduler": "scheduler",
    "lora": "loras",
    "loras": "loras",
    "clipskip": "extra.clip_skip",
    "eta": "extra.eta",
    "guidancerescale": "extra.guidance_rescale",
}
#: What no column says for its row, and where it stands for all rows.
_FOR_ALL = {
    "numimages": "samples_per_prompt",
    "numsamples": "samples_per_prompt",
    "samplesperprompt": "samples_per_prompt",
    "numimagesperprompt": "samples_per_prompt",
}


class Notes:
    """Collects the notes of one plan."""

    def __init__(self, job: Job) -> None:
        self._card = job.card
        self._lines: list[str] = []
        self._prompts = 0
        self._unknown = 0
        self._words: dict[str, None] = {}
        self._has_grammar = job.spec.prompts.grammar is not None
        self._like_grammar = 0
        self._first_like_it = ""

    def add(self, lines: Iterable[str]) -> None:
        """Take up notes, in order."""
        self._lines += lines

    def see(self, prompt: Prompt) -> Prompt:
        """Count what the model will make nothing of in a prompt; returns the prompt."""
        self._prompts += 1
        if self._card.vocabulary and (words := self._card.unknown_words(prompt.text)):
            self._unknown += 1
            if len(self._words) <= _SHOWN_WORDS:
                self._words |= dict.fromkeys(words)
        if not self._has_grammar and (found := find_grammar(prompt.text)) is not None:
            self._like_grammar += 1
            self._first_like_it = self._first_like_it or found
        return prompt

    @property
    def lines(self) -> tuple[str, ...]:
        """All of them."""
        return (*self._lines, *self._of_words(), *self._of_grammar())

    def _of_words(self) -> Iterator[str]:
        if self._unknown:
            words = [_short(word) for word in self._words]
            shown = ", ".join(words[:_SHOWN_WORDS]) + (", …" if len(words) > _SHOWN_WORDS else "")
            prompts = "1 prompt" if self._prompts == 1 else f"{self._prompts:,} prompts"
            use = "uses" if self._unknown == 1 else "use"
            yield (
                f"{self._unknown:,} of {prompts} {use} words that {self._card.id} was not trained on: {shown} (it "
                f'draws prompts such as "{self._card.example_prompt}")'
            )

    def _of_grammar(self) -> Iterator[str]:
        if self._like_grammar:
            which = "prompt looks" if self._like_grammar == 1 else "prompts look"
            yield (
                f"{self._like_grammar:,} {which} like dynamic prompts, as {_short(self._first_like_it)}, and "
                f"the model reads that as it stands (prompts.grammar: dynamic makes several prompts of it)"
            )


def find_idle_columns(job: Job, columns: ColumnMap) -> Iterator[str]:
    """Note columns that look like a field or a parameter and feed nothing."""
    prompts = job.spec.prompts
    said = [
        f"{_short(column)} ({hint})"
        for column in columns.passed
        if column not in prompts.rename
        and not any(column in text for text in (prompts.template, prompts.where) if text is not None)
        and (hint := _hint(job, column)) is not None
    ]
    if said:
        more = f", and {len(said) - _SHOWN} more" if len(said) > _SHOWN else ""
        which = "1 column feeds" if len(said) == 1 else f"{len(said)} columns feed"
        yield f"{which} nothing and only pass{'es' if len(said) == 1 else ''} through: {', '.join(said[:_SHOWN])}{more}"


def _hint(job: Job, column: str) -> str | None:
    fields = job.spec.prompts.fields
    field = _field_of(column)
    if field is None:
        if (other := _OTHERS.get(squeeze(column))) is not None:
            return f"did you mean prompts.fields: {{{other}: {_short(column)}}}?"
        place = _FOR_ALL.get(squeeze(column))
        return None if place is None else f"no row says it for itself: {place}"
    if getattr(fields, field) is None and field in fields.model_fields_set:
        return None  # the spec says that no column feeds it
    if column == getattr(fields, field):
        return f"{job.spec.task} reads no {field}"
    return f"did you mean prompts.fields.{field}: {_short(column)}?"


def _field_of(column: str) -> str | None:
    """The field that a column was meant for, by its name."""
    names = list(Fields.model_fields)
    word = squeeze(column)
    same = next((name for name in names if squeeze(name) == word), None)
    if same is not None:
        return same
    known = _COLUMNS.get(word) or foreign_name_of(column, names)
    if known is not None or len(word) < 4:
        return known
    near = difflib.get_close_matches(word, [squeeze(name) for name in names if name[0] == word[0]], 1, _NEAR)
    return next((name for name in names if near and squeeze(name) == near[0]), None)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 1]}…"
