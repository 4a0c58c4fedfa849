"""The steps that a recipe can name. A step's signature is its schema: names, types and defaults of its arguments."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mindvl.data.render.config import checked
from mindvl.data.steps.duplicate_pictures import DuplicatePictures
from mindvl.data.steps.duplicate_texts import DuplicateTexts
from mindvl.data.steps.pictures import aspect_ratio, decodes, resolution
from mindvl.data.steps.subset import subset
from mindvl.data.steps.text import clean_text, repeated_ngrams, text_length, well_formed
from mindvl.data.steps.text_share import TextShare

STEPS_VERSION = 1  # raise it when a step with the same arguments decides otherwise


@dataclass(frozen=True)
class StepKind:
    """A function of one sample, or the class of a corpus step."""

    make: Callable[..., Any]
    bounds: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Argument -> lowest and highest value that means something."""
    needs: str | None = None
    """A library of the extra `curation`."""

    @property
    def sees_corpus(self) -> bool:
        return inspect.isclass(self.make)

    @property
    def purpose(self) -> str:
        """The first line of its docstring."""
        return (inspect.getdoc(self.make) or "").splitlines()[0]

    @property
    def defaults(self) -> dict[str, Any]:
        parameters = inspect.signature(self.make).parameters.values()
        return {p.name: p.default for p in parameters if p.name != "sample"}


STEPS: dict[str, StepKind] = {
    "well_formed": StepKind(well_formed),
    "clean_text": StepKind(clean_text),
    "text_length": StepKind(text_length),
    "repeated_ngrams": StepKind(repeated_ngrams, {"n": (1, 100), "max_ratio": (0, 1)}),
    "resolution": StepKind(resolution, {"max_pixels": (1, 100_000_000)}),
    "aspect_ratio": StepKind(aspect_ratio, {"max_ratio": (1, 10_000)}),
    "decodes": StepKind(decodes),
    "subset": StepKind(subset, {"ratio": (0, 1)}),
    "duplicate_pictures": StepKind(
        DuplicatePictures, {"hash_size": (2, 64), "max_distance": (0, 64)}, needs="imagehash"
    ),
    "duplicate_texts": StepKind(
        DuplicateTexts, {"threshold": (0.1, 1), "shingle_chars": (1, 100), "num_hashes": (16, 1024)}, needs="datasketch"
    ),
    "text_share": StepKind(TextShare, {"ratio": (0, 1)}),
}


def check_step(name: Any, arguments: Any) -> dict[str, Any]:
    """All arguments of a step, defaults filled in. Raises ValueError that names the step, the argument, its bounds."""
    if name not in STEPS:
        raise ValueError(f"unknown step {name!r}{nearest(name, STEPS)}")
    kind = STEPS[name]
    if not isinstance(arguments, Mapping):
        raise ValueError(f"step {name} has {arguments!r} for its arguments; write {name}: {{}} for the defaults")
    values = dict(kind.defaults)
    for key, value in arguments.items():
        if key not in values:
            raise ValueError(f"step {name} has no argument {key!r}{nearest(key, values)}")
        values[key] = checked(f"{name}.{key}", value, values[key])
        low, high = kind.bounds.get(key, (0, float("inf")))
        if isinstance(value, (int, float)) and not low <= value <= high:
            raise ValueError(f"{name}.{key} is {value}; it must be from {low:g} to {high:g}")
    return values


def make_step(name: str, arguments: Mapping[str, Any]) -> Any:
    """A function of one sample, or a corpus step with `signature` and `verdicts`."""
    kind = STEPS[name]
    return kind.make(**arguments) if kind.sees_corpus else partial(kind.make, **arguments)


def check_installed(name: str) -> None:
    """Raises ValueError that names the extra, before any work is done."""
    needs = STEPS[name].needs
    if needs is not None and importlib.util.find_spec(needs) is None:
        raise ValueError(f"step {name} needs the library {needs}: pip install 'mindvl[curation]'")


def nearest(name: Any, known: Mapping[str, Any]) -> str:
    """The end of an error about an unknown name."""
    near = difflib.get_close_matches(str(name), known, n=1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; known are {', '.join(known)}" if known else "; it takes none"
