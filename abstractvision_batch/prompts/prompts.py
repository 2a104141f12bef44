"""One row of the dataset made a `Prompt`: its id, text, own parameters, input images and pass-through values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from abstractvision_batch.job.fields import MAX_SEED
from abstractvision_batch.job.load import Job
from abstractvision_batch.prompts.column_types import ColumnTypes
from abstractvision_batch.prompts.images import ImageProber, InputImage
from abstractvision_batch.prompts.mapping import ROW_PARAMS, ColumnMap, needed_from_rows
from abstractvision_batch.prompts.problems import Problems
from abstractvision_batch.prompts.readers import TABLES, PromptFile
from abstractvision_batch.prompts.row_params import OverrideParser
from abstractvision_batch.prompts.sizes import OutputSizes, SizePlanner, same_shape
from abstractvision_batch.prompts.template import RowError
from abstractvision_batch.storage.in_flight import map_in_flight
from abstractvision_batch.text.redaction import kept_url


class Prompt(NamedTuple):
    """One prompt. `params` are in the order of `ROW_PARAMS`, `passed` in that of the columns that pass through.

    After those of `ROW_PARAMS`, `params` has the row's other parameters as JSON, in the order of `ColumnMap.others`.
    """

    id: str
    text: str
    params: tuple[Any, ...]
    image: InputImage | None
    mask: InputImage | None
    passed: tuple[Any, ...]


class SourceRow(NamedTuple):
    """A row as read. `number` counts all rows of the dataset from zero, `folder` is where relative images start."""

    source: PromptFile | str
    """The file, or the place of an inline row."""
    line: int
    folder: str
    number: int
    values: Mapping[str, Any]

    @property
    def is_of_table(self) -> bool:
        """Whether its values are cells of a table."""
        return not isinstance(self.source, str) and self.source.source.format in TABLES

    @property
    def place(self) -> str:
        """What messages begin with."""
        return self.source if isinstance(self.source, str) else self.source.place(self.line)


class PromptParser:
    """Makes prompts of rows; what is wrong with a row goes to `problems`."""

    def __init__(
        self,
        job: Job,
        columns: ColumnMap,
        types: ColumnTypes,
        template: Callable[[Mapping[str, Any]], str] | None,
        problems: Problems,
        *,
        may_hold_surrogates: bool,
        format: int,
    ) -> None:
        fields = columns.fields
        self._spec = job.spec
        self._template = template
        self._problems = problems
        self._id = fields.get("id")
        self._prompt = fields.get("prompt")
        self._image = fields.get("image")
        self._mask = fields.get("mask")
        self._needed = needed_from_rows(job)
        names = (*ROW_PARAMS, *columns.others)
        self._none: tuple[Any, ...] = (None,) * len(names)
        self._params = [(index, name, fields[name]) for index, name in enumerate(names) if name in fields]
        self._passed = [(old, types.converter(old)) for old in columns.passed]
        self._text_is_checked = all(convert is None for _, convert in self._passed) and not may_hold_surrogates
        self._parse_param = OverrideParser(job).parse
        self._prober = ImageProber(job)
        self._sizes = SizePlanner(job.spec, job.card) if format > 1 and self._image is not None else None
        self._output_sizes = OutputSizes(job.spec, job.card)
        rules = job.card.tasks[job.spec.task].params
        self._image_required = job.spec.task in ("image_to_image", "image_to_video") or (
            "reference_image" in rules and rules["reference_image"].required
        )
        self._prompt_required = job.spec.task != "image_to_video" or ("prompt" in rules and rules["prompt"].required)
        self._prompt_refused = "prompt" in rules and not rules["prompt"].supported
        self._card = job.card

    @property
    def signed_images(self) -> bool:
        """Whether URLs of input images that were parsed gave access."""
        return self._prober.signed

    def parse(self, row: SourceRow) -> Prompt | None:
        """The row's prompt, or None if something is wrong with it."""
        try:
            id_ = self.id_of(row)
            text = self._text_of(row)
            params = self._params_of(row)
            image = self._image_of(row, self._image)
            mask = self._image_of(row, self._mask)
            if image is None and self._image_required:
                raise ValueError(f"{self._image or 'image'}: no image (every {self._spec.task} request needs one)")
            if image and mask and not same_shape(image.size, mask.size):
                sizes = f"{mask.width}x{mask.height}, the image {image.width}x{image.height}"
                raise ValueError(f"{self._mask}: the mask is {sizes} (make them one size)")
            if image and self._sizes is not None:
                self._check_size(image, params)
            own = (params[_WIDTH], params[_HEIGHT])
            if mask or own != (None, None):
                self._output_sizes.check(own, masked=mask is not None)
            return Prompt(id_, text, params, image, mask, self._passed_of(row))
        except (ValueError, RowError) as error:
            self._problems.add(f"{row.place}: {error}")
            return None

    def look_ahead(self, rows: Iterable[SourceRow]) -> Iterator[SourceRow]:
        """The rows; their images are being read while earlier rows are parsed."""
        columns = [column for column in (self._image, self._mask) if column is not None]
        if not columns:
            return iter(rows)

        def read(row: SourceRow) -> None:
            for column in columns:
                self._prober.read_ahead(row.folder, row.values.get(column))

        return (row for row, _ in map_in_flight(rows, read))

    def id_of(self, row: SourceRow) -> str:
        """The id column's text, else the row's number in six digits or more."""
        if self._id is None:
            return f"{row.number:06d}"
        value = row.values.get(self._id)
        if value is None or (text := _as_text(self._id, str(value)).strip()) == "":
            raise ValueError(f"{self._id}: no id (give one, or set prompts.fields.id: null)")
        return text

    def _text_of(self, row: SourceRow) -> str:
        if self._template is not None:
            text: Any = self._template(row.values)
            name = "template"
        else:
            text = row.values.get(self._prompt) if self._prompt is not None else None
            name = self._prompt or "prompt"
        if text is None:
            text = ""
        if not isinstance(text, str):
            raise ValueError(f"{name}: {text!r} is not a text")
        if self._prompt_required and not text.strip():
            raise ValueError(f"{name}: the prompt is empty (fill it in, or leave the row out with prompts.where)")
        if self._prompt_refused and text:
            takes_none = f"{self._card.id} takes no prompt (set prompts.fields.prompt: null; {self._card.origin})"
            raise ValueError(f"{name}: {takes_none}")
        return _as_text(name, text)

    def _params_of(self, row: SourceRow) -> tuple[Any, ...]:
        if not self._params:
            return self._none
        values = list(self._none)
        for index, name, column in self._params:
            try:
                cell = row.values.get(column)
                # A table has no other way to say that there is no value.
                value = self._parse_param(
                    name, None if cell == "" and row.is_of_table else cell, is_written=row.is_of_table
                )
            except ValueError as error:
                label = name if column == name else f"{name} (column {column!r})"
                raise ValueError(f"{label}: {error}") from None
            if value is None and name in self._needed:
                raise ValueError(f"{column}: empty, and {self._needed[name]}")
            if name == "seed" and value is not None and value > MAX_SEED - self._spec.samples_per_prompt:
                raise ValueError(f"{column}: {value} leaves no room for {self._spec.samples_per_prompt} samples")
            values[index] = _as_text(column, value) if isinstance(value, str) else value
        return tuple(values)

    def _check_size(self, image: InputImage, params: tuple[Any, ...]) -> None:
        assert self._sizes is not None
        try:
            self._sizes.check(image.size, (params[_WIDTH], params[_HEIGHT]))
        except ValueError as error:
            raise ValueError(f"{self._image}: {image.name}: {error}") from None

    def _image_of(self, row: SourceRow, column: str | None) -> InputImage | None:
        name = row.values.get(column) if column is not None else None
        if name is None or name == "":
            return None
        if not isinstance(name, str):
            raise ValueError(f"{column}: {_describe_image(name)} (write it to a file, and its path or URL here)")
        if name[:5].lower() == "data:":
            raise ValueError(f"{column}: a data: URI (write the image to a file, and its path or URL here)")
        try:
            return self._prober.probe(row.folder, _as_text(str(column), name))
        except ValueError as error:
            raise ValueError(f"{column}: {error}") from None

    def _passed_of(self, row: SourceRow) -> tuple[Any, ...]:
        if self._text_is_checked:
            return tuple([_kept(row.values.get(name)) for name, _ in self._passed])
        values = []
        for name, convert in self._passed:
            value = row.values.get(name)
            if value is not None and convert is not None:
                value = convert(value)
            values.append(_as_text(name, kept_url(value)) if isinstance(value, str) else value)
        return tuple(values)


_WIDTH, _HEIGHT = ROW_PARAMS.index("width"), ROW_PARAMS.index("height")


def _kept(value: Any) -> Any:
    return kept_url(value) if type(value) is str and "://" in value else value


def _describe_image(value: Any) -> str:
    if isinstance(value, bytes) or (isinstance(value, dict) and {"bytes", "path"} & set(value)):
        return "an image inside the data set, which is not read"
    return "not the path or URL of an image"


def _as_text(name: str, text: str) -> str:
    """The text itself, if Arrow can store it: JSON may carry halves of surrogate pairs."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{name}: half a surrogate pair, which is no character (correct the text)") from None
    return text
