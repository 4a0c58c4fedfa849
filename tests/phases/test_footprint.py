"""A plan's activations are those of a real step, whose every tensor is watched."""

import copy
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mindvl.model.mindvl import MindVL
from mindvl.parallel.precision import ShardedPrecision
from mindvl.parallel.pretend import join_pretended, pretend_world
from mindvl.parallel.recompute import recompute
from mindvl.parallel.strategy import MindVLStrategy
from mindvl.phases.footprint import footprint
from mindvl.phases.miniature import full_pack, on_meta

TOWER = {"depth": 5, "hidden_size": 64, "num_heads": 2, "intermediate_size": 96, "fullatt_block_indexes": [2, 4]}
SIZES = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 5, "num_attention_heads": 4, "head_dim": 16}
FAMILIES = {
    "dense": {"model_type": "qwen3", **SIZES, "num_key_value_heads": 2},
    "experts": {
        "model_type": "deepseek_v3",
        **SIZES,
        "head_dim": 8,
        "num_key_value_heads": 4,
        "q_lora_rank": 32,
        "kv_lora_rank": 32,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 16,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 2,
    },
}
EVERYTHING = ("vision", "projector", "language")


class Watch(TorchDispatchMode):
    """The most bytes of tensors that were made since and live, all counted anew after each operator."""

    def __init__(self, model, batch):
        super().__init__()
        before = [*model.parameters(), *model.buffers(), *tensors_of(batch), *tensors_of(batch.vision)]
        self.before = {tensor.untyped_storage().data_ptr() for tensor in before}
        self.storages, self.moments, self.gradients = [], [], []
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(lambda each: self.gradients.append(each.grad))

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self.before and not any(each() is storage for each in self.storages):
                    self.storages.append(weakref.ref(storage))
        self.storages = [each for each in self.storages if each() is not None]
        self.moments.append([(each, each().nbytes()) for each in self.storages])
        return result

    def most_bytes(self):
        """Gradients of parameters, which are there to the end, are left out."""
        gradients = [gradient.untyped_storage() for gradient in self.gradients]
        kept = {id(each) for each in self.storages if any(each() is gradient for gradient in gradients)}
        return max(sum(size for each, size in moment if id(each) not in kept) for moment in self.moments)


def tensors_of(batch):
    return [each for each in vars(batch).values() if isinstance(each, torch.Tensor)]


@pytest.fixture
def config(make_config):
    return lambda family: make_config(language=FAMILIES[family], vision=TOWER)


def pack_of(config):
    return full_pack(config, tokens=256, patch_budget=1024, visual_ratio=0.5, supervised_ratio=0.25)


def planned(config, trains=EVERYTHING, **mesh):
    ranks = mesh.pop("ranks", 1)
    strategy = MindVLStrategy(**mesh)
    strategy.precision_plugin = ShardedPrecision("32-true")
    with pretend_world(ranks):
        join_pretended(strategy)
        pack = pack_of(config)
        return footprint(on_meta(config, trains), pack, strategy, packs_per_rank=1, on_accelerator=False)


@pytest.mark.parametrize("how", ["none", "selective", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_activations_are_those_of_a_tracked_step(family, how, config):
    found = planned(config(family), recompute=how).activations
    model, pack = MindVL(copy.deepcopy(config(family))).train(), pack_of(config(family))
    recompute([*model.vision.blocks, *model.language_model.base_model.layers], how)
    with Watch(model, pack) as watch:
        model(packed=pack).loss.backward()
    print(family, how, found, watch.most_bytes(), found.total() / watch.most_bytes())
    assert found.total() == pytest.approx(watch.most_bytes(), rel=0.1)
