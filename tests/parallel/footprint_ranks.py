"""Ranks of test_footprint.py: footprint_ranks.py FOLDER; FOLDER/cases holds (name, model, mesh) by world size.

Each rank builds its slices as a phase does, takes an AdamW step, and writes the bytes that it holds by owner to
FOLDER/<name>.<rank>.result; of the cases in FOLDER/steps, the most bytes of activations to FOLDER/<name>.<rank>.step.
"""

import os
import sys
from collections import Counter
from pathlib import Path

import torch
import torch.distributed as dist
from watch import Watch
from worlds import run_worlds

from mindvl.data.tokenizer import byte_tokenizer
from mindvl.model.building import build
from mindvl.model.parts import train_only
from mindvl.parallel import MindVLStrategy
from mindvl.parallel.gradients import local_slices
from mindvl.parallel.mesh import build_meshes
from mindvl.parallel.plans import apply_plans
from mindvl.parallel.precision import ShardedPrecision
from mindvl.parallel.pretend import pretend_world
from mindvl.parallel.recompute import recompute
from mindvl.phases.activations import owner_of
from mindvl.phases.miniature import full_pack, sizes_of
from mindvl.phases.model_spec import build_model, config_of
from mindvl.phases.placing import place


def slices(folder: Path, model_name: str, mesh: dict, precision: str, trains: tuple[str, ...]) -> dict[str, Counter]:
    strategy = MindVLStrategy(**mesh)
    strategy.precision_plugin = ShardedPrecision(precision)
    strategy.sizes = strategy.sizes.over(dist.get_world_size())
    strategy.meshes = build_meshes(strategy.sizes, "cpu")
    spec = torch.load(folder / f"{model_name}.spec", weights_only=False)

    def prepare(model):
        train_only(model, trains)
        place(model, strategy)

    model = build_model(spec, config_of(spec, byte_tokenizer()), place=prepare)
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    optimizers = []
    for parameter in trained.values():
        parameter.grad = torch.zeros_like(parameter)
        optimizers.append(torch.optim.AdamW([parameter], fused=True))
        optimizers[-1].step()
    found = {name: Counter() for name in ("parameters", "gradients", "optimizer")}
    for name, parameter in model.named_parameters():
        found["parameters"][owner_of(name)] += local_slices([parameter])[0].nbytes
    for (name, parameter), optimizer in zip(trained.items(), optimizers, strict=True):
        found["gradients"][owner_of(name)] += local_slices([parameter.grad])[0].nbytes
        state = [each for each in optimizer.state[parameter].values() if each.ndim]
        found["optimizer"][owner_of(name)] += sum(each.nbytes for each in local_slices(state))
    return found


def tracked(folder: Path, model_name: str, mesh: dict) -> int:
    """The most bytes of a step's activations on this rank, its model cut as by `slices` but for FSDP2."""
    strategy = MindVLStrategy(**mesh)
    strategy.sizes = strategy.sizes.over(dist.get_world_size())
    strategy.meshes = build_meshes(strategy.sizes, "cpu")
    config = sizes_of(torch.load(folder / f"{model_name}.spec", weights_only=False))
    torch.manual_seed(0)

    def prepare(model):
        apply_plans(model.language_model, strategy.meshes)
        recompute([*model.vision.blocks, *model.language_model.base_model.layers], strategy.recompute)
        model.share_packs(strategy.meshes.context.get_group() if strategy.sizes.context > 1 else None)

    model = build(config, place=prepare)
    pack = full_pack(config, tokens=256, patch_budget=1024, visual_ratio=0.5, supervised_ratio=0.25)
    pack.input_ids.random_(1, 250)
    pack.vision.patches.random_(256)
    with Watch(model, pack) as watch:
        model.train()(packed=pack).loss.backward()
    return watch.most_bytes()


def main(folder: Path) -> None:
    cases = torch.load(folder / "cases", weights_only=False)

    steps = torch.load(folder / "steps", weights_only=False)

    def run(size: int) -> None:
        dist.init_process_group("gloo")
        for name, *case in cases[size]:
            torch.save(slices(folder, *case), folder / f"{name}.{os.environ['RANK']}.result")
        for name, *case in steps[size]:
            torch.save(tracked(folder, *case), folder / f"{name}.{os.environ['RANK']}.step")
        dist.destroy_process_group()

    def alone() -> None:
        with pretend_world(1):
            for name, *case in steps[1]:
                torch.save(tracked(folder, *case), folder / f"{name}.0.step")

    run_worlds({1: alone, **{size: lambda size=size: run(size) for size in cases}})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
