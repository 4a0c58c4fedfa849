"""What a kind of tower says about itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TowerKind:
    """The two classes of a tower, and what differs between their configurations."""

    config: type
    tower: type
    """Built as `tower(config, image_mean=..., image_std=...)`; called with a pack's VisionInputs."""
    output_width: str = "out_hidden_size"
    """The field of the configuration that holds the width of the projector's output."""
    brings_projector: bool = True
    """Whether published weights hold the projector; where they do not, it starts random."""
    check: Callable[[Any], None] = lambda config: None
    """Raises ValueError for a configuration that a MindVL cannot use."""
