"""Records which experts every token really used, while a model trains, is evaluated or writes.

    with RoutingRecorder(model) as recorder:
        model(packed=batch)
    recorder.recording()          # one RoutingSample per document: ids (tokens, layers, k), kinds, key, domain

Hooks listen where the choice is used (`mindvl.routing.matchers`); nothing in the model changes, no output, no
gradient, no random number. A forward call of the model is a step: its layers' ids are stacked once and leave the
device together, at the next step where that device is an accelerator, so nothing waits for them.

Three kinds of calls that would be counted wrongly, and what happens to them:

    recomputation under gradient checkpointing runs inside backward, where the hooks stay silent (both flavours of
        checkpointing; autograd says that it is running), so each layer counts once per step
    decode steps of `generate` are appended to the row of their prompt, known by the cache that they continue; what a
        finished row computes while others still write is left out
    encoder and decoder of a sequence-to-sequence model see different tokens: they are two parts, recorded apart

Beam search and assisted decoding move or take back tokens in the cache; both are refused. Hooks do not run inside
compiled graphs (`torch.compile`): a step in which no layer spoke is an error, not an empty record.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from mindvl.routing.batch_rows import Labels
from mindvl.routing.matchers import Matcher, find_moe_layers
from mindvl.routing.sample import Recording
from mindvl.routing.stack_listener import StackListener


class RoutingRecorder:
    """Records the routing of a model between `with` and its end.

    Args:
        model: whose forward is called: a model of transformers, a MindVL, or any module that holds MoE layers and gets
            tokens. Raises ValueError when it has no MoE layer of a known family.
        matchers: descriptions of gates that are not known, before the known ones.
        only: pattern searched for in the layers' paths; the others are left alone.
        weights: record the combination weights too.
        folder: write finished samples to a trace there instead of keeping them; for two stacks, to two traces,
            `folder/encoder` and `folder/decoder`.
        append: continue traces that are already there.
        end_token_ids: tokens that end a generated row; those of `model.generation_config` when left out.
        image_token_id: the placeholder of pictures in `input_ids`; that of `model.config` when left out.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        matchers: Sequence[Matcher] = (),
        only: str | None = None,
        weights: bool = False,
        folder: str | Path | None = None,
        append: bool = False,
        end_token_ids: Sequence[int] | None = None,
        image_token_id: int | None = None,
    ):
        config = getattr(model, "config", None)
        if end_token_ids is None:
            end = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
            end_token_ids = () if end is None else (end,) if isinstance(end, int) else tuple(end)
        if image_token_id is None:
            image_token_id = getattr(config, "image_token_id", None)
        name = getattr(config, "_name_or_path", "") or type(model).__name__
        layers = find_moe_layers(model, matchers, only=only)
        self._parts: dict[str, StackListener] = {}
        for part in dict.fromkeys(layer.part for layer in layers):
            where = None if folder is None else Path(folder) / part if part != "model" else Path(folder)
            self._parts[part] = StackListener(
                name,
                part,
                _stack(model, part),
                [layer for layer in layers if layer.part == part],
                weights=weights,
                folder=where,
                append=append,
                end_token_ids=frozenset(end_token_ids),
                image_token_id=image_token_id,
            )
        self._state = "new"

    @property
    def parts(self) -> tuple[str, ...]:
        """("model",), or ("encoder", "decoder")."""
        return tuple(self._parts)

    def __enter__(self) -> RoutingRecorder:
        if self._state != "new":
            raise ValueError(f"this recorder is {self._state}; a recorder is entered once, make another")
        self._state = "already recording"
        for part in self._parts.values():
            part.attach()
        return self

    def __exit__(self, error: type | None, *_: object) -> None:
        self._state = "finished"
        for part in self._parts.values():
            part.detach()
        for part in self._parts.values():
            part.finish(failed=error is not None)

    def label(
        self,
        *,
        keys: Sequence[str] | None = None,
        domains: Sequence[str] | None = None,
        lengths: Sequence[int] | None = None,
        kinds: np.ndarray | None = None,
        mask: np.ndarray | None = None,
        part: str | None = None,
    ) -> None:
        """Say what the samples of the next forward call are (decode steps that follow it belong to the same samples).

        A `PackedBatch` brings its keys and sources (as domains) itself. `lengths` splits one row into samples, `kinds`
        and `mask` are (rows, tokens): `TokenKind` of each, and false at padding.
        """
        for name, each in self._parts.items():
            if part in (None, name):
                each.labels = Labels(keys, domains, lengths, kinds, mask)

    def recording(self, part: str | None = None) -> Recording:
        """What was recorded so far, except what went to a folder. `part` is needed where there are two."""
        if part is None and len(self._parts) > 1:
            raise ValueError(f"this model has the parts {', '.join(self._parts)}: say which")
        if part is not None and part not in self._parts:
            raise ValueError(f"no part {part!r}; there is {', '.join(self._parts)}")
        return self._parts[part or next(iter(self._parts))].recording()


def _stack(model: nn.Module, part: str) -> nn.Module:
    """The module whose forward call is a step of a part."""
    if part == "model":
        return model
    return model.get_encoder() if part == "encoder" else model.get_decoder()


def record_routing(model: nn.Module, **options: Any) -> RoutingRecorder:
    """`with record_routing(model) as recorder:`, see RoutingRecorder."""
    return RoutingRecorder(model, **options)
