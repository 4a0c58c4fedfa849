"""Where the memory of a step is: every tensor's bytes from its making to its end, and what ranks exchange meanwhile.

`MemoryTrace` sees each operator. It works on real tensors and on fake ones, which have sizes and no memory. Modules may
be named (`around`): their forward and backward passes become stretches of the record. Of two layers, with hidden states
of 2 MB and three tensors of that size kept by each:

    stretch             bytes at its end, less those at its start     most in between
    layer 0, forward        +8 MB                                     +9 MB
    layer 1, forward        +8 MB                                     +9 MB
    (rest)                  +0                                        +4 MB
    layer 1, backward       -8 MB                                     +3 MB
    layer 0, backward       -8 MB                                     +3 MB

Parameters, buffers and inputs are not counted, nor gradients of parameters: those are accounted for elsewhere.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mindvl.parallel.gradients import local_slices

Pass = Literal["forward", "backward"]
REST = "rest"


@dataclass
class Stretch:
    """A part of a step's time: of a named module's pass, or of what is between them."""

    name: str
    during: Pass
    grown: Counter[str] = field(default_factory=Counter)
    """Bytes at the end less those at the start, by owner."""
    most: Counter[str] = field(default_factory=Counter)
    """Bytes at the fullest moment less those at the start, by owner."""
    exchanged: Counter[tuple[str, int, int]] = field(default_factory=Counter)
    """Bytes that this rank sends, by collective and owner, size of the group, and span of its ranks."""

    @property
    def most_bytes(self) -> int:
        return sum(self.most.values())


@dataclass(frozen=True)
class _Event:
    """A storage made or ended, an exchange, or the beginning of a stretch."""

    bytes: int = 0
    storage: int = -1
    owner: str = ""
    stretch: tuple[str, Pass] | None = None
    exchange: tuple[str, int, int] | None = None


class _Place(NamedTuple):
    """Whose what is made now is, and in which stretch."""

    owner: str
    stretch: str


class MemoryTrace(TorchDispatchMode):
    """Records a forward and backward pass of a model; `stretches` tells them afterwards.

    Args:
        model: its parameters, their gradients and its buffers are left out.
        inputs: other tensors that exist before.
    """

    def __init__(self, model: nn.Module, inputs: Iterable[Tensor] = ()):
        super().__init__()
        self._events: list[_Event] = []
        self._known: dict[int, int] = {}
        self._owners: list[str] = []
        self._gradients: set[int] = set()
        self._place = _Place(REST, REST)
        self._during: Pass = "forward"
        self._before = [tensor.untyped_storage() for tensor in local_slices([*model.parameters(), *model.buffers()])]
        self._before += [tensor.untyped_storage() for tensor in inputs]
        self._known |= {storage._cdata: -1 for storage in self._before}
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._complete)

    # What is recorded.

    def around(self, module: nn.Module, name: str, *, owner: str) -> None:
        """Make the passes of a module stretches of their own; tensors made in them are `owner`'s."""
        self._watch(module, owner, name)

    def inside(self, module: nn.Module, *, owner: str) -> None:
        """Tensors made in the passes of a module are `owner`'s, whatever stretch they are made in."""
        self._watch(module, owner, None)

    def _watch(self, module: nn.Module, owner: str, name: str | None) -> None:
        calls: list[tuple[_Place, _Place]] = []

        def before(_: nn.Module, arguments: Any, keywords: Any) -> None:
            outer = self._place
            mine = _Place(owner, name or outer.stretch)
            calls.append((outer, mine))
            _on_gradient((arguments, keywords), lambda: self._leave(mine, outer))
            self._enter(mine, self._during)

        def after(_: nn.Module, arguments: Any, keywords: Any, result: Any) -> None:
            outer, mine = calls.pop()
            _on_gradient(result, lambda: self._enter(mine, "backward"))
            self._enter(outer, self._during)  # which may be backward already, where a pass is run again

        module.register_forward_pre_hook(before, with_kwargs=True)
        module.register_forward_hook(after, with_kwargs=True)

    def _leave(self, mine: _Place, outer: _Place) -> None:
        """Unless the module before, which waits for the same gradient, has begun already."""
        if self._place is mine:
            self._enter(outer, "backward")

    def _enter(self, place: _Place, during: Pass) -> None:
        if (self._place.stretch, self._during) != (place.stretch, during):
            self._events.append(_Event(stretch=(place.stretch, during)))
        self._place, self._during = place, during

    def _complete(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self._gradients.add(self._known.get(local_slices([parameter.grad])[0].untyped_storage()._cdata, -1))

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operator(*args, **(kwargs or {}))
        namespace, _, name = operator.name().split(".")[0].partition("::")
        if namespace in ("_c10d_functional", "c10d", "_dtensor") and name in _SENT:
            self._exchange(name, args, kwargs)
        # Of a tensor that is spread over ranks, what this one holds, and of one under way what will be there: the
        # tensors around them have storages in name alone.
        for tensor in local_slices([each for each in tree_leaves(result) if isinstance(each, Tensor)]):
            self._made(getattr(tensor, "elem", tensor).untyped_storage())
        return result

    def _made(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        number, size = len(self._owners), storage.nbytes()
        self._known[key] = number
        self._owners.append(self._place.owner)
        self._events.append(_Event(size, number, self._place.owner))
        weakref.finalize(storage, self._ended, key, number, size)

    def _ended(self, key: int, number: int, size: int) -> None:
        if self._known.get(key) == number:
            del self._known[key]
        self._events.append(_Event(-size, number, self._owners[number]))

    def _exchange(self, name: str, args: Any, kwargs: Any) -> None:
        from torch.distributed import get_process_group_ranks
        from torch.distributed.distributed_c10d import _resolve_process_group

        given = [*args, *(kwargs or {}).values()]
        group = next((each for each in reversed(given) if isinstance(each, str) and each not in _REDUCTIONS), None)
        sent = next((each for each in tree_leaves(args) if isinstance(each, Tensor)), None)
        if group is None or sent is None or not sent.is_floating_point():
            return
        ranks = get_process_group_ranks(_resolve_process_group(group))
        kind, share = _SENT[name]
        size, span = len(ranks), max(ranks) - min(ranks) + 1
        self._events.append(
            _Event(int(sent.nbytes * share(size)), exchange=(f"{kind} of {self._place.owner}", size, span))
        )

    # What it comes to.

    def stretches(self) -> list[Stretch]:
        """All of the step, in order; those without an event in them are left out."""
        found = [Stretch(REST, "forward")]
        live: Counter[str] = Counter()
        most_bytes = 0
        for event in self._events:
            if event.stretch is not None:
                found[-1].grown = live
                found.append(Stretch(*event.stretch))
                live, most_bytes = Counter(), 0
            elif event.exchange is not None:
                found[-1].exchanged[event.exchange] += event.bytes
            elif event.storage not in self._gradients:
                live[event.owner] += event.bytes
                if sum(live.values()) > most_bytes:
                    found[-1].most, most_bytes = live.copy(), sum(live.values())
        found[-1].grown = live
        return [each for each in found if each.grown or each.exchanged]


def _on_gradient(tensors: Any, call: Callable[[], None]) -> None:
    """When the gradient of the first of these tensors that has one is complete."""
    for tensor in tree_leaves(tensors):
        if isinstance(tensor, Tensor) and tensor.requires_grad and not tensor.is_leaf:
            tensor.register_hook(lambda gradient: call())
            return


_REDUCTIONS = ("sum", "avg", "max", "min", "product")
_SENT = {
    "all_reduce": ("all-reduce", lambda n: 2 * (n - 1) / n),
    "all_reduce_": ("all-reduce", lambda n: 2 * (n - 1) / n),
    "all_gather_into_tensor": ("all-gather", lambda n: n - 1),
    "reduce_scatter_tensor": ("reduce-scatter", lambda n: (n - 1) / n),
    "all_to_all_single": ("all-to-all", lambda n: (n - 1) / n),
}
"""Of each collective, the bytes that a rank of n sends per byte of its input."""
