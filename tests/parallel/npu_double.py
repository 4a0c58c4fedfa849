"""A double of an Ascend device in pure Python: `install()`, and this process has one device "npu:0".

Its tensors are wrappers around CPU tensors. What torch knows of them is what it knows of a device: `x.device` is npu:0,
kernels are found by dispatch key, autocast has a list of its own, random numbers come from the device's generator. Code
that forgets the device, names the wrong one to autocast, or mixes two in one operation fails here as it would there:

    torch.ones(2, device="npu") + torch.ones(2)        RuntimeError: two devices in one operation

What it cannot show: speed, memory, streams that run by themselves, kernels that Ascend lacks, the numbers of its matrix
units, and FSDP2, which resizes storages that wrappers do not have. There is one device per process, because torch's
Python guard counts no further; ranks are processes.
"""

from __future__ import annotations

import types
from functools import partial

import torch
from torch.utils import backend_registration
from torch.utils._pytree import tree_map

CAST_DOWN = ("mm", "addmm", "bmm", "baddbmm", "matmul", "linear", "scaled_dot_product_attention")
"""Operations that autocast runs in its lower precision."""


class NPUTensor(torch.Tensor):
    """A tensor on npu:0, whose numbers lie in `host`."""

    @staticmethod
    def __new__(cls, host: torch.Tensor):
        layout = {"strides": host.stride(), "storage_offset": host.storage_offset(), "dtype": host.dtype}
        return torch.Tensor._make_wrapper_subclass(cls, host.shape, device="npu:0", **layout)

    def __init__(self, host: torch.Tensor):
        self.host = host

    def __repr__(self):
        return f"{self.host!r} on npu:0"

    def tolist(self):
        return self.host.tolist()

    def storage(self):
        return self.host.storage()

    def untyped_storage(self):
        return self.host.untyped_storage()

    def __reduce_ex__(self, protocol):
        numbers = self.detach().cpu()
        return torch._utils._rebuild_device_tensor_from_cpu_tensor, (numbers, self.dtype, "npu:0", self.requires_grad)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})


def is_npu(device) -> bool:
    return device is not None and torch.device(device).type == "npu"


def run(function, args, kwargs):
    """One operation on the device: its CPU kernel on what the wrappers hold."""
    crosses = function in (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)
    to_host = kwargs.get("device") is not None and not is_npu(kwargs["device"])
    wrappers = {}

    def unwrap(value):
        if isinstance(value, NPUTensor):
            wrappers[id(value.host)] = value
            return value.host
        if isinstance(value, torch.Tensor) and value.ndim and not crosses:
            raise RuntimeError(f"{function}: two devices in one operation, npu:0 and {value.device}")
        return torch.device("cpu") if isinstance(value, torch.device) and is_npu(value) else value

    def wrap(value):
        if not isinstance(value, torch.Tensor) or to_host:
            return value
        return wrappers[id(value)] if id(value) in wrappers else NPUTensor(value)

    args, kwargs = tree_map(unwrap, (args, kwargs))
    function = UNLIKE_CPU.get(function, function)
    if torch.Tag.nondeterministic_seeded not in getattr(function, "tags", ()):
        return tree_map(wrap, function(*args, **kwargs))
    with Module.generator:
        return tree_map(wrap, function(*args, **kwargs))


def histc(numbers, *args, **kwargs):
    """Of integers too, which torch_npu counts and torch's CPU kernel does not."""
    return torch.histc(numbers.float(), *args, **kwargs).to(numbers.dtype)


UNLIKE_CPU = {torch.ops.aten.histc.default: histc}
"""Kernels that the device has and the CPU has not."""


class Generator:
    """The device's random numbers: a state that takes the place of torch's while a kernel draws."""

    def __init__(self):
        self.state = torch.Generator().manual_seed(0).get_state()

    def __enter__(self):
        self._host = torch.get_rng_state()
        torch.set_rng_state(self.state)

    def __exit__(self, *_):
        self.state = torch.get_rng_state()
        torch.set_rng_state(self._host)


class Event:
    """A point in the device's work, which here is always done."""

    def __init__(self, **_):
        self.time_s = 0.0

    def record(self, *_):
        import time

        self.time_s = time.perf_counter()

    def synchronize(self):
        pass

    def elapsed_time(self, later: Event) -> float:
        return 1000 * (later.time_s - self.time_s)


class Module(types.ModuleType):
    """What torch_npu puts at `torch.npu`, as far as training asks for it."""

    generator = Generator()
    Event = Event

    def is_available(self):
        return True

    is_initialized = is_bf16_supported = is_available

    def device_count(self):
        return 1

    def current_device(self):
        return 0

    def set_device(self, device):
        if torch.device(device).index != 0:
            raise RuntimeError(f"there is npu:0 alone, not {device}")

    def get_device_name(self, device=None):
        return "Ascend double"

    def synchronize(self, device=None):
        pass

    def empty_cache(self):
        pass

    def memory_allocated(self, device=None):
        return 1024

    def memory_reserved(self, device=None):
        return 4096

    def max_memory_allocated(self, device=None):
        return 2048

    def utilization(self, device=None):
        return 37

    def _is_in_bad_fork(self):
        return False

    def manual_seed_all(self, seed):
        self.generator.state = torch.Generator().manual_seed(seed).get_state()

    def get_rng_state(self, device="npu"):
        return self.generator.state.clone()

    def set_rng_state(self, state, device="npu"):
        self.generator.state = state.clone()

    def get_amp_supported_dtype(self):
        return [torch.bfloat16, torch.float16]


def empty(size, *, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
    return NPUTensor(torch.empty(size, dtype=dtype, memory_format=memory_format or torch.contiguous_format))


def empty_strided(size, stride, *, dtype=None, layout=None, device=None, pin_memory=None):
    return NPUTensor(torch.empty_strided(size, stride, dtype=dtype))


def copy_from(source, destination, non_blocking=False):
    from_host, to_host = (getattr(tensor, "host", tensor) for tensor in (source, destination))
    to_host.copy_(from_host)
    return destination


def cast_down(function, *args, **kwargs):
    """An operation under autocast: floats go in as autocast's dtype."""
    dtype = torch.get_autocast_dtype("npu")

    def cast(value):
        is_float = isinstance(value, torch.Tensor) and value.is_floating_point() and value.dtype != torch.float64
        return value.to(dtype) if is_float and value.device.type == "npu" else value

    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)):
        return function(*tree_map(cast, args), **tree_map(cast, kwargs))


def through_gloo(store, rank, size, timeout):
    """hccl's place in a process group. Wrappers reach gloo by their own way, as the CPU tensors they hold."""
    return torch.distributed.ProcessGroupGloo(store, rank, size, timeout)


def install() -> list[torch.library.Library]:
    """Give this process its npu:0; once. The kernels stay registered as long as the result is kept."""
    backend_registration._setup_privateuseone_for_python_backend("npu", Module("torch.npu"))
    torch.accelerator.synchronize = lambda device=None: None  # torch's Python guard has none
    # Lightning reads checkpoints with a function that leaves storages on the host; tensors without storage know none.
    place = torch._utils._get_restore_location
    torch._utils._get_restore_location = lambda device: (
        "cpu" if callable(torch.serialization._serialization_tls.map_location) else place(device)
    )
    kernels = torch.library.Library("aten", "IMPL")
    kernels.impl("empty.memory_format", empty, "PrivateUse1")
    kernels.impl("empty_strided", empty_strided, "PrivateUse1")
    kernels.impl("_copy_from", copy_from, "PrivateUse1")
    kernels.impl("_pin_memory", lambda tensor, device=None: tensor.clone(), "CPU")
    for name in CAST_DOWN:
        overload = getattr(torch.ops.aten, name).default
        kernels.impl(name, partial(cast_down, overload), "AutocastPrivateUse1")
    rest = torch.library.Library("_", "IMPL")
    rest.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    torch.distributed.Backend.register_backend("hccl", through_gloo, devices=["npu"])
    return [kernels, rest]
