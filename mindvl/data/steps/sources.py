"""Where samples come from: drawn here, imported from other people's formats, or read from shards that exist.

The work is divided into units that anyone can do anywhere: 200 rendered documents, or one file of an import, or one
shard. A large import in a single JSON file is therefore the work of one process; `mindvl data import` once and then
`shards:` divides it.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mindvl.data.importing.outcome import Rejected
from mindvl.data.raw import RawSample
from mindvl.data.reasons import reason_of
from mindvl.data.render.config import RENDERER_VERSION, RenderConfig, check_config
from mindvl.data.render.sample import draw_document, encode_sample
from mindvl.data.steps.recipe import DataRecipe, DataSource
from mindvl.data.steps.table import STEPS_VERSION, nearest
from mindvl.data.storage import NoShardsError, find_shards, is_url, version_of

UNIT_DOCUMENTS = 200
READING_VERSION = 2  # raise it when the same files give other samples

Made = RawSample | Rejected

_COLUMNS = tuple(f"{kind}_column" for kind in ("image", "messages", "question", "choices", "answer", "caption"))
FORMATS: dict[str, tuple[str, ...]] = {
    "llava": (),
    "sharegpt": (),
    "qwen": (),
    "hf": ("dataset_split", "prompt", *_COLUMNS),
}
"""Formats of other people's files, as `mindvl data import` knows them -> settings beside `path` and `images`."""


@dataclass(frozen=True)
class Unit:
    """A piece of one source and split. `files` are (place in the source's list, location); empty for rendered ones."""

    number: int
    source: str
    split: str
    first: int = 0
    count: int | None = None
    files: tuple[tuple[int, str], ...] = ()


def check_sources(recipe: DataRecipe) -> None:
    """Settings of every source, and that its files are there. Raises ValueError that names the source."""
    if recipe.image_format not in ("png", "jpg"):
        raise ValueError(f"image_format is {recipe.image_format!r}; it must be png or jpg")
    render_config(recipe)
    for source in recipe.sources:
        if source.kind != "render":
            _check_files(source)


def _check_files(source: DataSource) -> None:
    where = f"sources.{source.name}.{source.kind}"
    required: tuple[str, ...] = ("path",)
    allowed: tuple[str, ...] = ("path",)
    if source.kind == "import":
        name = source.settings.get("format")
        if name not in FORMATS:
            raise ValueError(f"{where}.format is {name!r}{nearest(name, dict.fromkeys(FORMATS))}")
        required, allowed = ("format", "path"), ("format", "path", "images", *FORMATS[name])
    for key, value in source.settings.items():
        if key not in allowed:
            raise ValueError(f"unknown key {where}.{key}{nearest(key, dict.fromkeys(allowed))}")
        if not isinstance(value, str):
            raise ValueError(f"{where}.{key} is {value!r}; it must be text")
    for key in required:
        if key not in source.settings:
            raise ValueError(f"key {where}.{key} is missing")
    if not files_of(source) and not source.optional:
        raise ValueError(f"{where}.path {source.settings['path']} is not there; `optional: true` would leave it out")


def render_config(recipe: DataRecipe) -> RenderConfig | None:
    """What the renderer makes of all rendered sources; None if there are none. Raises its ValueErrors."""
    rendered = {source.name: source.settings for source in recipe.sources if source.kind == "render"}
    if not rendered:
        return None
    top = {"seed": recipe.seed, "image_format": recipe.image_format}
    return check_config({**recipe.style, **top, "sources": rendered})


def files_of(source: DataSource) -> list[str]:
    """Absolute paths (or URLs) of an import's files or of shards, sorted; none where an optional source is absent."""
    pattern = source.settings["path"]
    if source.kind == "shards":
        try:
            return [name if is_url(name) else os.path.abspath(name) for name in find_shards(pattern)]  # noqa: PTH100
        except NoShardsError:
            return []
        except ValueError as error:
            raise ValueError(f"sources.{source.name}.shards: {error}") from error
    path = Path(pattern).absolute()
    if path.is_dir() and source.settings["format"] == "hf":
        from mindvl.data.importing.tables import table_files

        try:
            found = table_files(path, split=source.settings.get("dataset_split"))
        except ValueError as error:
            raise ValueError(f"sources.{source.name}.import: {error} (here: dataset_split)") from error
    else:
        found = [path] if path.is_file() else sorted(path.parent.glob(path.name))
    return [str(file) for file in found if file.is_file()]


def units_of(recipe: DataRecipe) -> list[Unit]:
    """The whole work in a fixed order."""
    config = render_config(recipe)
    units: list[Unit] = []
    for source in recipe.sources:
        limit = recipe.limit_of(source)
        if source.kind == "render":
            assert config is not None
            for split, samples in config.sources[source.name].samples.items():
                samples = samples if limit is None else min(samples, limit)
                for first in range(0, samples, UNIT_DOCUMENTS):
                    units.append(Unit(0, source.name, split, first, min(UNIT_DOCUMENTS, samples - first)))
            continue
        files = tuple(enumerate(files_of(source)))
        # With a limit the files are read one after another until there is enough: one unit, which counts by itself.
        parts = [files] if limit is not None and files else [(file,) for file in files]
        units += [Unit(0, source.name, source.split, 0, limit, part) for part in parts]
    return [replace(unit, number=number) for number, unit in enumerate(units)]


def read_unit(recipe: DataRecipe, unit: Unit) -> Iterator[Made]:
    """The samples of a unit, each with its source, category and split in the record, and the records that are none."""
    source = next(source for source in recipe.sources if source.name == unit.source)
    if source.kind == "render":
        for sample in _draw(recipe, unit):
            yield _labelled(sample, source, unit)
        return
    read = _import if source.kind == "import" else _read_shard
    made = (entry for place, location in unit.files for entry in read(source, place, location))
    for entry in itertools.islice(made, unit.count):
        yield entry if isinstance(entry, Rejected) else _labelled(entry, source, unit)


def sources_version(recipe: DataRecipe) -> list[Any]:
    """What the fingerprint must know beside the recipe: versions of the code that makes samples, and of its files."""
    files = [name for source in recipe.sources if source.kind != "render" for name in files_of(source)]
    versions = [[name, version_of(name).size_bytes, version_of(name).mark] for name in files]
    return [RENDERER_VERSION, STEPS_VERSION, versions, *([READING_VERSION] if versions else [])]


def _draw(recipe: DataRecipe, unit: Unit) -> Iterator[RawSample]:
    config = render_config(recipe)
    assert config is not None and unit.count is not None
    source = config.sources[unit.source]
    for index in range(unit.first, unit.first + unit.count):
        document = draw_document(source, seed=recipe.seed, split=unit.split, index=index)
        members = encode_sample(document, source, split=unit.split, index=index, image_format=recipe.image_format)
        images = tuple(data for name, data in members.items() if isinstance(data, bytes) and name != "json")
        yield RawSample(str(members["__key__"]), json.loads(members["json"]), images)


def _import(source: DataSource, place: int, location: str) -> Iterator[Made]:
    from mindvl.data.importing.sample import UniqueKeys

    unique = UniqueKeys()
    for entry in _open_import(source, location):
        if isinstance(entry, Rejected):
            yield replace(entry, key=f"{source.name}/{place}/{entry.key}")
        else:
            yield _placed(unique(entry), source, place)


def _open_import(source: DataSource, location: str) -> Iterator[Made]:
    from mindvl.data.importing import hf, json_formats

    settings, path = source.settings, Path(source.settings["path"]).absolute()
    images = Path(settings.get("images", path if path.is_dir() else path.parent)).absolute()
    if settings["format"] == "hf":
        columns = hf.Columns(**{key.removesuffix("_column"): settings[key] for key in _COLUMNS if key in settings})
        prompt = settings.get("prompt", hf.CAPTION_PROMPT)
        return hf.import_hf(Path(location), images, source=source.name, columns=columns, prompt=prompt)
    readers = {
        "llava": json_formats.import_llava,
        "sharegpt": json_formats.import_sharegpt,
        "qwen": json_formats.import_qwen,
    }
    return readers[settings["format"]](Path(location), images, source=source.name)


def _read_shard(source: DataSource, place: int, location: str) -> Iterator[Made]:
    from mindvl.data.chat import check_messages
    from mindvl.data.reader import read_samples

    refused: list[Rejected] = []

    def refuse(key: str, reason: str) -> None:
        refused.append(Rejected(f"{source.name}/{place}/{key}", reason))

    for sample in read_samples(location, refused=refuse):
        yield from refused  # they stood before this one in the shard
        refused.clear()
        try:
            check_messages(sample.messages)
        except ValueError as error:
            yield Rejected(f"{source.name}/{place}/{sample.key}", reason_of(error))
        else:
            yield _placed(sample, source, place)
    yield from refused


def _placed(sample: RawSample, source: DataSource, place: int) -> RawSample:
    """Keys are unique in one file only; with the source and the file's place they are in the whole output."""
    return RawSample(f"{source.name}/{place}/{sample.key}", sample.record, sample.images)


def _labelled(sample: RawSample, source: DataSource, unit: Unit) -> RawSample:
    record = {**sample.record, "source": source.name, "category": source.category, "split": unit.split}
    return RawSample(sample.key, record, sample.images)
