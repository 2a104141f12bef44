"""Dynamic prompts: a row whose prompt is `a {red|blue} fox, __style__` stands for several prompts.

The grammar is that of the `dynamicprompts` library. Which prompts come out is a function of the row's prompt and id,
the wildcard files and, where they are drawn, the job's seed. Each has the id of its row and a hash of its text, so that
a further option only adds prompts; a row without grammar in it is one prompt under its own id.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from abstractvision_batch.errors import OptionalDependencyMissingError, SpecError
from abstractvision_batch.job.load import Job
from abstractvision_batch.job.prompt_files import WILDCARD_SUFFIXES
from abstractvision_batch.prompts.prompts import Prompt

if TYPE_CHECKING:
    from dynamicprompts.sampling_context import SamplingContext

#: Of one row.
MAX_PROMPTS = 10_000
_TRIES_EACH = 50
_ID_DIGITS = 12
_LOOKS_LIKE_IT = re.compile(
    r"\{[^{}]*\|[^{}]*\}|\{\d+(-\d+)?\$\$|(?<![A-Za-z0-9_])__[A-Za-z0-9][A-Za-z0-9_/*-]*__(?![A-Za-z0-9_])"
)


def find_grammar(text: str) -> str | None:
    """Return what looks like the grammar in a prompt."""
    match = _LOOKS_LIKE_IT.search(text) if "{" in text or "__" in text else None
    return match and match[0]


def wildcard_files(job: Job) -> list[Path]:
    """Return the files of the wildcards folder, sorted; none where the spec has no such folder.

    Raises:
        SpecError: there is no such folder.
    """
    grammar = job.spec.prompts.grammar
    if grammar is None or grammar.wildcards is None:
        return []
    folder = Path(job.local_path(grammar.wildcards))
    if not folder.is_dir():
        raise SpecError(f"{job.at('prompts.grammar.wildcards')}: {folder}: no such folder")
    return sorted(path for path in folder.rglob("*") if path.suffix in WILDCARD_SUFFIXES and path.is_file())


class PromptGrammar:
    """Expands the prompts of one job.

    Raises:
        OptionalDependencyMissingError: the library is not installed.
        SpecError: there is no such folder of wildcards.
    """

    def __init__(self, job: Job) -> None:
        place = job.at("prompts.grammar")
        try:
            from dynamicprompts.enums import SamplingMethod
            from dynamicprompts.wildcards import WildcardManager
        except ImportError as error:
            command = 'pip install "abstractvision_batch[dynamic]"'
            raise OptionalDependencyMissingError(f"{place}: needs dynamicprompts (run: {command})") from error
        grammar = job.spec.prompts.grammar
        assert grammar is not None
        wildcard_files(job)
        self._is_random = grammar.mode == "random"
        self._n = grammar.n
        self._seed = job.spec.params.seed
        self._method = SamplingMethod.RANDOM if self._is_random else SamplingMethod.COMBINATORIAL

        class Wildcards(WildcardManager):
            """Refuses a wildcard without values, which the library leaves as it stands."""

            def get_values(self, wildcard: str) -> Any:
                values = super().get_values(wildcard)
                if not values:
                    where = "its folder has none" if self.path else "write prompts.grammar: {wildcards: a folder}"
                    raise ValueError(f"no values for the wildcard __{wildcard}__ ({where})")
                return values

        self._wildcards = Wildcards(None if grammar.wildcards is None else job.local_path(grammar.wildcards))

    def expand(self, prompt: Prompt) -> list[Prompt]:
        """Return the prompts that one stands for, all different.

        Raises:
            ValueError: it is not in the grammar, a wildcard has no values, or it stands for too many prompts.
        """
        from dynamicprompts.commands import LiteralCommand
        from dynamicprompts.parser.parse import parse
        from pyparsing import ParseBaseException

        try:
            if isinstance(parse(prompt.text), LiteralCommand) and "#" not in prompt.text:
                return [prompt]
            texts = list(self._draw(prompt) if self._is_random else self._combine(prompt))
        except ParseBaseException as error:
            near = prompt.text[error.loc : error.loc + 20]
            raise ValueError(f"the prompt is not in the grammar of dynamic prompts, from {near!r} on") from error
        except RecursionError as error:
            raise ValueError("the prompt's wildcards lead to themselves, or it is nested too deeply") from error
        if not all(text.strip() for text in texts):
            raise ValueError("one of the prompts that it stands for is empty")
        return [prompt._replace(id=f"{prompt.id}-{_hash(text)}", text=text) for text in texts]

    def _combine(self, prompt: Prompt) -> list[str]:
        sampled = self._context(f"{self._seed}/{prompt.id}").sample_prompts(prompt.text, None)
        most = MAX_PROMPTS + 1 if self._n is None else self._n * _TRIES_EACH
        texts = dict.fromkeys(islice((str(result) for result in sampled), most))
        if self._n is None and len(texts) > MAX_PROMPTS:
            raise ValueError(
                f"the prompt stands for more than {MAX_PROMPTS:,} (prompts.grammar: {{mode: random, n: 10}} draws some)"
            )
        return list(texts)[: self._n]

    def _draw(self, prompt: Prompt) -> Iterator[str]:
        wanted = self._n or 1
        found: set[str] = set()
        for number in range(wanted * _TRIES_EACH):
            if len(found) == wanted:
                return
            context = self._context(f"{self._seed}/{prompt.id}/{number}")
            text = str(next(iter(context.sample_prompts(prompt.text, 1))))
            if text not in found:
                found.add(text)
                yield text

    def _context(self, seed: str) -> SamplingContext:
        from dynamicprompts.sampling_context import SamplingContext

        return SamplingContext(
            default_sampling_method=self._method, wildcard_manager=self._wildcards, rand=Random(seed)
        )


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=_ID_DIGITS // 2).hexdigest()
