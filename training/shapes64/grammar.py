"""The language of shapes64: what can be said, in which words, and what is kept out of training.

A prompt names one object::

    a [large|small] COLOUR SHAPE [PLACE] [on a BACKGROUND background]

    a large red circle on a white background
    a small cyan triangle at the top left on a black background

No PLACE means the centre. The 4 shapes, 6 colours, 3 backgrounds, 2 sizes and 9 places make 1296 combinations, of
which 228 are never drawn during training: they are what `evaluate` asks for.

*Not covered:* several objects, numbers, relations, negation, synonyms, any other word.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

RGB = tuple[int, int, int]

IMAGE_SIDE = 64
SHAPES = ("circle", "square", "triangle", "cross")
COLOURS: dict[str, RGB] = {
    "red": (220, 35, 35),
    "green": (40, 165, 60),
    "blue": (35, 70, 220),
    "yellow": (250, 220, 40),
    "purple": (150, 45, 190),
    "cyan": (50, 215, 230),
}
BACKGROUNDS: dict[str, RGB] = {"white": (245, 245, 245), "black": (12, 12, 12), "grey": (128, 128, 128)}

# Radius range in pixels; what the radius of a square or a cross is, `render.signed_distance` says.
SIZES: dict[str, tuple[float, float]] = {"large": (15.5, 18.0), "small": (10.0, 11.5)}

# Distance in pixels, along each axis, between the centre of the image and a place that is not the centre: as far
# out as the largest object of that size can go.
PLACE_OFFSET: dict[str, float] = {"large": 11.5, "small": 15.0}
CENTRE = ""
SIDES: dict[str, tuple[int, int]] = {
    CENTRE: (0, 0),
    "on the left": (-1, 0),
    "on the right": (1, 0),
    "at the top": (0, -1),
    "at the bottom": (0, 1),
}
CORNERS: dict[str, tuple[int, int]] = {
    "at the top left": (-1, -1),
    "at the top right": (1, -1),
    "at the bottom left": (-1, 1),
    "at the bottom right": (1, 1),
}
PLACES = SIDES | CORNERS


@dataclass(frozen=True, slots=True)
class Combination:
    """One thing that the grammar can say."""

    shape: str
    colour: str
    background: str
    size: str
    place: str

    @property
    def centre(self) -> tuple[float, float]:
        """Where the middle of the object belongs, x and y in pixels."""
        right, down = PLACES[self.place]
        offset = PLACE_OFFSET[self.size]
        return IMAGE_SIDE / 2 + right * offset, IMAGE_SIDE / 2 + down * offset


def prompt_for(combination: Combination, *, say_size: bool = True, say_background: bool = True) -> str:
    """The sentence that asks for a combination; without its size or background, one that leaves them open."""
    words = ["a"]
    if say_size:
        words.append(combination.size)
    words += [combination.colour, combination.shape]
    if combination.place:
        words.append(combination.place)
    if say_background:
        words.append(f"on a {combination.background} background")
    return " ".join(words)


def grammar_words() -> tuple[str, ...]:
    """Every word that occurs in a prompt, sorted: the vocabulary of the tokenizer."""
    phrases = [*SHAPES, *COLOURS, *BACKGROUNDS, *SIZES, *PLACES, "a", "on a background"]
    return tuple(sorted({word for phrase in phrases for word in phrase.split()}))


def _split(places: dict[str, tuple[int, int]], held_out: int, seed: int) -> tuple[list[Combination], list[Combination]]:
    every = [Combination(*parts) for parts in itertools.product(SHAPES, COLOURS, BACKGROUNDS, SIZES, places)]
    random.Random(seed).shuffle(every)
    return every[:held_out], every[held_out:]


def split_combinations() -> tuple[tuple[Combination, ...], tuple[Combination, ...]]:
    """The combinations kept out of training and those trained on; the same two lists in every process.

    Sides and corners are split separately because the corners came later: the weights that knew only the sides are
    continued, so what they had not seen has to stay unseen. Each list is shuffled, so that its start is a fair sample.
    """
    held_sides, trained_sides = _split(SIDES, held_out=128, seed=4242)
    held_corners, trained_corners = _split(CORNERS, held_out=100, seed=4243)
    held, trained = held_sides + held_corners, trained_sides + trained_corners
    random.Random(4244).shuffle(held)
    random.Random(4245).shuffle(trained)
    return tuple(held), tuple(trained)


HELD_OUT, TRAINED = split_combinations()
