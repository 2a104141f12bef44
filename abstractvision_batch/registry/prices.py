"""What a request costs: the price that a job or a model's card names, and the bill that a server's reply allows.

Every try counts. One that failed, or whose reply was lost, is billed as the dearest there is, since a server may do the
work and bill it all the same. Not covered: how much a run may cost (`execute.spending`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from abstractvision_batch.documents.strict_model import Number, StrictModel, Text

_MILLION = 1_000_000
_Usd = Annotated[Number, Field(ge=0, le=1_000_000)]


class PriceSpec(StrictModel):
    """What a request costs. Token prices are used where a reply counts its tokens, and all three are needed then."""

    request_usd: _Usd
    """Of one request, at most: what a budget sets aside for it, and its cost where no tokens are counted."""
    million_text_tokens_usd: _Usd | None = None
    """Of a million input tokens of text."""
    million_image_tokens_usd: _Usd | None = None
    """Of a million input tokens of images."""
    million_output_tokens_usd: _Usd | None = None
    """Of a million output tokens."""

    @model_validator(mode="after")
    def _tokens_are_priced_together(self) -> PriceSpec:
        tokens = (self.million_text_tokens_usd, self.million_image_tokens_usd, self.million_output_tokens_usd)
        if any(price is None for price in tokens) and any(price is not None for price in tokens):
            raise ValueError("some tokens have a price and others none (price text, image and output tokens, or none)")
        return self


class CardPrice(PriceSpec):
    """The price that a card names."""

    source: Text
    """Where it was read, and when."""


def cost_usd(price: PriceSpec, tries: int, usage: Any = None) -> float:
    """What a request has cost after `tries` tries, the last of which was answered with `usage` if that is known."""
    if tries < 1:
        return 0.0
    last = _tokens_usd(price, usage)
    return price.request_usd * (tries - 1) + (price.request_usd if last is None else last)


def format_usd(usd: float) -> str:
    """An amount for people: `$12.50`, `$0.0042`."""
    return f"${usd:,.2f}" if usd >= 1 or abs(usd - round(usd, 2)) < 1e-9 else f"${usd:.4f}"


def _tokens_usd(price: PriceSpec, usage: Any) -> float | None:
    """The bill of one reply by its tokens; None where they or their price are not known."""
    if price.million_output_tokens_usd is None or not isinstance(usage, Mapping):
        return None
    details = usage.get("input_tokens_details")
    details = details if isinstance(details, Mapping) else {}
    output, whole = _count(usage, "output_tokens"), _count(usage, "input_tokens")
    texts, images = _count(details, "text_tokens"), _count(details, "image_tokens")
    if output is None or whole is None:
        return None
    if texts is None or images is None or texts + images != whole:
        texts, images = 0, whole  # not told apart: all as the dearer kind
    text_usd = price.million_text_tokens_usd or 0.0
    image_usd = max(text_usd, price.million_image_tokens_usd or 0.0)
    return (texts * text_usd + images * image_usd + output * price.million_output_tokens_usd) / _MILLION


def _count(data: Mapping[str, Any], name: str) -> int | None:
    value = data.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
