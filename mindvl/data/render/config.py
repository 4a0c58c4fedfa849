"""A config is checked to the last key before the first picture is drawn.

Top level: `seed`, `image_format`, `samples_per_shard`, `sources`, and any field of `Style` for all sources.
A source names its `family`, how many samples each split gets, optionally `text_only`, any field of `Style`, and any
keyword of the family's function: its signature is the schema, its defaults make realistic documents.
"""

import hashlib
import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from mindvl.data.render.families import FAMILIES, TEXT_FAMILIES
from mindvl.data.render.split import SPLITS
from mindvl.data.render.style import Style

RENDERER_VERSION = 1  # raise it when the same config draws other pictures

MAY_BE_ZERO = ("margin_cells", "operand", "price", "value")  # ranges that count from nothing
TOP_DEFAULTS: dict[str, Any] = {"seed": 0, "image_format": "png", "samples_per_shard": 1000}
STYLE_DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(Style)}


@dataclass(frozen=True, kw_only=True)
class Source:
    """A stream of documents of one family, with its look and difficulty."""

    name: str
    family: str
    text_only: bool
    samples: dict[str, int]
    style: Style
    settings: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RenderConfig:
    """A checked config."""

    seed: int
    image_format: str
    samples_per_shard: int
    sources: dict[str, Source]

    def fingerprint(self) -> str:
        """The same for two configs exactly when they draw the same pictures into the same shards."""
        canonical = json.dumps({"renderer": RENDERER_VERSION, **asdict(self)}, sort_keys=True)
        return hashlib.blake2b(canonical.encode(), digest_size=8).hexdigest()


def check_config(config: Mapping[str, Any]) -> RenderConfig:
    """The config as typed objects; raises `ValueError` that names the key and what is allowed."""
    _refuse_unknown(config, {*TOP_DEFAULTS, *STYLE_DEFAULTS, "sources"}, "the config")
    top = {key: checked(key, config.get(key, default), default) for key, default in TOP_DEFAULTS.items()}
    if top["image_format"] not in ("png", "jpg"):
        raise ValueError(f"image_format is {top['image_format']!r}; it must be png or jpg")
    if top["samples_per_shard"] < 1:
        raise ValueError(f"samples_per_shard is {top['samples_per_shard']}; it must be at least 1")
    sources = config.get("sources")
    if not isinstance(sources, Mapping) or not sources:
        raise ValueError("the config needs `sources`: a name and settings for each stream of pictures")
    shared = {key: config[key] for key in STYLE_DEFAULTS if key in config}
    return RenderConfig(**top, sources={name: _check_source(name, source, shared) for name, source in sources.items()})


def _check_source(name: Any, source: Any, shared: Mapping[str, Any]) -> Source:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_]+", name):
        raise ValueError(f"source name {name!r} becomes a file name: use letters, digits and _")
    if not isinstance(source, Mapping) or "family" not in source:
        raise ValueError(f"source {name} needs `family`, one of {', '.join(FAMILIES)}")
    family = source["family"]
    if family not in FAMILIES:
        raise ValueError(f"source {name}: unknown family {family!r}; known families are {', '.join(FAMILIES)}")
    defaults = family_defaults(FAMILIES[family])
    _refuse_unknown(source, {"family", "text_only", *SPLITS, *STYLE_DEFAULTS, *defaults}, f"source {name}")
    text_only = checked("text_only", source.get("text_only", False), False)
    if text_only and family not in TEXT_FAMILIES:
        raise ValueError(f"source {name}: {family} has no transcript; text_only needs one of {sorted(TEXT_FAMILIES)}")
    if text_only and not source.get("value_labels", True):
        raise ValueError(f"source {name}: with text_only there is nothing to read without value_labels")
    samples = {split: checked(split, source.get(split, 0), 0) for split in SPLITS}
    if not any(samples.values()):
        raise ValueError(f"source {name}: sample counts are {samples}; at least one must be above 0")
    look = {**shared, **{key: source[key] for key in STYLE_DEFAULTS if key in source}}
    style = Style(**{key: checked(key, value, STYLE_DEFAULTS[key]) for key, value in look.items()})
    settings = {key: checked(f"{name}.{key}", source.get(key, default), default) for key, default in defaults.items()}
    return Source(name=name, family=family, text_only=text_only, samples=samples, style=style, settings=settings)


def family_defaults(family: Callable[..., Any]) -> dict[str, Any]:
    """The difficulty settings of a family: the keyword-only arguments of its function."""
    parameters = inspect.signature(family).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def checked(key: str, value: Any, default: Any) -> Any:
    """A value of the default's type: numbers, words, [low, high] ranges or lists of words."""
    if isinstance(default, tuple) and default and not isinstance(default[0], str):
        pair = isinstance(value, (list, tuple)) and len(value) == 2 and all(_is_number(item) for item in value)
        whole = pair and (isinstance(default[0], float) or all(isinstance(item, int) for item in value))
        least = 0 if key.split(".")[-1] in MAY_BE_ZERO else 1 if isinstance(default[0], int) else 0.1
        if not whole or not least <= value[0] <= value[1]:
            raise ValueError(f"{key} is {value!r}; it must be [low, high] from {least} up, such as {list(default)}")
        return tuple(type(default[0])(item) for item in value)
    if isinstance(default, tuple):
        if not isinstance(value, (list, tuple)) or not value or not all(isinstance(item, str) for item in value):
            raise ValueError(f"{key} is {value!r}; it must be a list of words such as {list(default)}")
        return tuple(value)
    if isinstance(default, float) and _is_number(value):
        return float(value)
    if type(value) is not type(default):
        raise ValueError(f"{key} is {value!r}; it must be of type {type(default).__name__}, such as {default!r}")
    if isinstance(value, int) and value < 0:
        raise ValueError(f"{key} is {value}; it must not be negative")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _refuse_unknown(given: Mapping[str, Any], allowed: set[str], where: str) -> None:
    for key in given:
        if key not in allowed:
            raise ValueError(f"{where} has the unknown key {key!r}; allowed are {', '.join(sorted(allowed))}")
