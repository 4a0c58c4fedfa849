"""The hooks on one stack of layers: a forward call of the stack is a step, its MoE layers speak in between.

A language model is one stack; the encoder and the decoder of a sequence-to-sequence model are two, each with its own
listener, as they see different tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mindvl.routing.batch_rows import BatchRows, Labels, in_backward, rows_of_call
from mindvl.routing.choices import Choice, Watch
from mindvl.routing.matchers import MoELayer, refuse_unequal
from mindvl.routing.open_rows import OpenRows
from mindvl.routing.sample import DROPPED, Recording, TraceMeta, id_dtype
from mindvl.routing.trace import TraceWriter


class _Step:
    """One forward call while it runs."""

    def __init__(self, rows: BatchRows, num_layers: int):
        self.rows = rows
        self.choices: list[Choice | None] = [None] * num_layers


class StackListener:
    """Hears `layers` whenever `stack` is called, and keeps or writes the samples; see RoutingRecorder."""

    def __init__(
        self,
        model_name: str,
        name: str,
        stack: nn.Module,
        layers: list[MoELayer],
        *,
        weights: bool,
        folder: Path | None,
        append: bool,
        end_token_ids: frozenset[int],
        image_token_id: int | None,
    ):
        self.model_name, self.name, self.stack, self.layers = model_name, name, stack, layers
        self.weights, self.folder, self.append, self.image_token_id = weights, folder, append, image_token_id
        self.labels = Labels()
        self.rows = OpenRows(end_token_ids)
        self._id_type = torch.int16 if id_dtype(layers[0].num_experts).itemsize == 2 else torch.int32
        self._k: int | None = None
        self._step: _Step | None = None
        self._waiting: list[tuple[BatchRows, Tensor, Tensor | None]] = []
        self._watches: dict[int, Watch] = {}
        self._handles: list[Any] = []
        self._writer: TraceWriter | None = None

    # Hooks.

    def attach(self) -> None:
        hooks = self._handles
        hooks.append(self.stack.register_forward_pre_hook(self._begin, with_kwargs=True))
        hooks.append(self.stack.register_forward_hook(self._end, always_call=True))
        for number, layer in enumerate(self.layers):
            if layer.matcher.where == "input":
                # First of all hooks, so that ids are seen as the router gave them, before any dispatch over ranks.
                hook = self._read_hook(number, layer)
                hooks.append(layer.module.register_forward_pre_hook(hook, prepend=True, with_kwargs=True))
            elif layer.matcher.where == "output":
                hooks.append(layer.module.register_forward_hook(self._read_hook(number, layer), with_kwargs=True))
            else:
                hooks.append(layer.module.register_forward_pre_hook(self._watch_hook(number, layer)))
                unwatch = self._unwatch_hook(number, layer)
                hooks.append(layer.module.register_forward_hook(unwatch, always_call=True))

    def detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.rows.let_go_of_cache()

    def _begin(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if in_backward():
            return
        rows = rows_of_call(module, args, kwargs, image_token_id=self.image_token_id, labels=self.labels)
        self.labels = Labels()
        self.rows.expect(rows)
        self._step = _Step(rows, len(self.layers))

    def _end(self, module: nn.Module, args: tuple, output: Any) -> None:
        step = self._step
        if step is None or in_backward():
            return
        self._step = None
        if output is None:  # the call failed: what it chose so far is no sample
            self.rows.forget_step()
            return
        chosen = [choice for choice in step.choices if choice is not None]
        if not chosen:
            raise ValueError(
                f"none of the {len(self.layers)} MoE layers of {type(module).__name__} ran in this call: is it "
                "compiled, or does it not use them?"
            )
        self._waiting.append((step.rows, *self._stacked(step.choices)))
        while len(self._waiting) > self._late_steps(chosen[0].ids.device):
            self._settle()

    def _step_of(self, layer: MoELayer) -> _Step | None:
        """The running step; None for a recomputation. Raises ValueError outside of both."""
        if in_backward():
            return None
        if self._step is None:
            raise ValueError(
                f"{layer.name} ran outside a forward call of {type(self.stack).__name__}, to which the recorder "
                "listens; give the recorder the module that is called"
            )
        return self._step

    def _read_hook(self, number: int, layer: MoELayer) -> Callable[..., None]:
        read = layer.matcher.read
        assert read is not None, layer.matcher

        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any = None) -> None:
            step = self._step_of(layer)
            if step is not None:
                with torch.no_grad():
                    self._keep(step, number, read(module, args, kwargs, output))

        return hook

    def _watch_hook(self, number: int, layer: MoELayer) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple) -> None:
            step = self._step_of(layer)
            if step is not None:
                matcher, num_tokens = layer.matcher, step.rows.num_tokens
                watch = Watch(matcher.watch, num_experts=layer.num_experts, num_tokens=num_tokens)
                self._watches[number] = watch
                watch.__enter__()

        return hook

    def _unwatch_hook(self, number: int, layer: MoELayer) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            watch = self._watches.pop(number, None)
            if watch is not None:
                watch.__exit__(None, None, None)
                if output is not None and self._step is not None:
                    self._keep(self._step, number, watch.choice(layer.name))

        return hook

    def _keep(self, step: _Step, number: int, choice: Choice) -> None:
        name = self.layers[number].name
        if step.choices[number] is not None:
            raise ValueError(f"{name} ran twice in one forward call; a trace has one choice per token and layer")
        if len(choice.ids) != step.rows.num_tokens:
            raise ValueError(
                f"{name} routed {len(choice.ids)} tokens, the call of {type(self.stack).__name__} holds "
                f"{step.rows.num_tokens}; leave layers that see other tokens out with only='...'"
            )
        weights = choice.weights
        if self.weights:
            if weights is None:
                raise ValueError(f"{name} ({self.layers[number].matcher.family}) does not show its weights")
            weights = weights.detach().to(torch.float32)
        step.choices[number] = Choice(choice.ids.detach().to(self._id_type), weights if self.weights else None)

    # From a step to samples.

    def _stacked(self, choices: list[Choice | None]) -> tuple[Tensor, Tensor | None]:
        """(tokens, layers, k) ids and weights. A layer that was skipped as a whole (LayerDrop) ran no expert."""
        widths = {layer.name: each.ids.shape[1] for layer, each in zip(self.layers, choices, strict=True) if each}
        if self._k is None:
            refuse_unequal(widths, "experts per token")
            self._k = next(iter(widths.values()))
        changed = {name: width for name, width in widths.items() if width != self._k}
        if changed:
            raise ValueError(f"experts per token were {self._k} at first, now {changed}")
        some = next(each for each in choices if each)
        no_ids = torch.full_like(some.ids, DROPPED)
        ids = torch.stack([each.ids if each else no_ids for each in choices], dim=1)
        if some.weights is None:
            return ids, None
        no_weights = torch.zeros_like(some.weights)
        weights = [each.weights if each and each.weights is not None else no_weights for each in choices]
        return ids, torch.stack(weights, dim=1)

    @staticmethod
    def _late_steps(device: torch.device) -> int:
        """Steps that stay on an accelerator until a later one has been queued behind them: nothing waits for a copy."""
        return 0 if device.type == "cpu" else 1

    def _settle(self) -> None:
        """Bring the oldest waiting step home."""
        rows, ids, weights = self._waiting.pop(0)
        flat = ids.cpu().numpy()
        for layer, low, high in zip(self.layers, flat.min((0, 2)), flat.max((0, 2)), strict=True):
            if low < DROPPED or high >= layer.num_experts:
                raise ValueError(f"{layer.name} chose ids from {low} to {high}, it has {layer.num_experts} experts")
        self.rows.take(rows, flat, None if weights is None else weights.cpu().numpy())
        self._write()

    def _write(self) -> None:
        if self.folder is None or not self.rows.done:
            return
        if self._writer is None:
            self._writer = TraceWriter(self.folder, self._meta(), weights=self.weights, append=self.append)
        for sample in self.rows.done:
            self._writer.add(sample)
        self.rows.done.clear()

    def finish(self, *, failed: bool) -> None:
        while self._waiting:
            self._settle()
        self.rows.close()
        self._write()
        if self._writer is not None:
            self._writer.__exit__(RuntimeError if failed else None)

    def _meta(self) -> TraceMeta:
        if self._k is None:
            raise ValueError(f"nothing was recorded yet: {type(self.stack).__name__} was not called")
        layers, first = tuple(layer.name for layer in self.layers), self.layers[0]
        return TraceMeta(self.model_name, first.num_experts, layers, self._k, first.shared_experts, self.name)

    def recording(self) -> Recording:
        while self._waiting:
            self._settle()
        return Recording(self._meta(), self.rows.samples())
