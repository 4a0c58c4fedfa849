"""Every tensor of a step on real memory, counted anew after each operator: the slow twin of `MemoryTrace`."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mindvl.parallel.gradients import local_slices


class Watch(TorchDispatchMode):
    """The most bytes of tensors that were made since and live, all counted anew after each operator."""

    def __init__(self, model, batch):
        super().__init__()
        before = local_slices([*model.parameters(), *model.buffers()])
        before += [*tensors_of(batch), *tensors_of(batch.vision)]
        self.before = {tensor.untyped_storage().data_ptr() for tensor in before}
        self.storages, self.moments, self.gradients = [], [], []
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda each: self.gradients.append(each.grad))

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        for tensor in local_slices([each for each in tree_leaves(result) if isinstance(each, torch.Tensor)]):
            tensor = getattr(tensor, "elem", tensor)  # of a collective that is under way
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self.before and not any(each() is storage for each in self.storages):
                self.storages.append(weakref.ref(storage))
        self.storages = [each for each in self.storages if each() is not None]
        self.moments.append([(each, each().nbytes()) for each in self.storages])
        return result

    def most_bytes(self):
        """Gradients of parameters, which are there to the end, are left out."""
        gradients = [gradient.untyped_storage() for gradient in local_slices(self.gradients)]
        kept = {id(each) for each in self.storages if any(each() is gradient for gradient in gradients)}
        return max(sum(size for each, size in moment if id(each) not in kept) for moment in self.moments)


def tensors_of(batch):
    return [each for each in vars(batch).values() if isinstance(each, torch.Tensor)]
