"""Two ranks fill sharded models, started twice by test_fill_sharded.py: fill_ranks.py FOLDER VISION LANGUAGE...

Of each language model, by its number, rank 0 writes FOLDER/NUMBER-SETTING.pt: the whole tensors, gathered from both;
each rank writes FOLDER/NUMBER-SETTING.RANK.json: bytes read by key.
"""

import faulthandler
import json
import sys
from pathlib import Path

import torch
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from mindvl.data.tokenizer import load_tokenizer
from mindvl.model.building import build
from mindvl.model.weights.assembly import Part, assembled_config
from mindvl.model.weights.checkpoint import Checkpoint


def by_rows(model) -> None:
    """FSDP2 as it is by default: every parameter cut along its first dimension."""
    for layer in model.language_model.model.layers:
        fully_shard(layer)
    fully_shard(model)


def experts_by_columns(model) -> None:
    """Experts cut along their second dimension, all else along the first."""
    for layer in model.language_model.model.layers:
        fully_shard(layer, shard_placement_fn=lambda parameter: Shard(1) if parameter.ndim == 3 else Shard(0))
    fully_shard(model)


def experts_over_ranks(model) -> None:
    """Expert parallelism: whole experts live on different ranks, and the rest is not cut."""
    mesh = torch.distributed.init_device_mesh("cpu", (2,))
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            placement = Shard(0) if parameter.ndim == 3 else Replicate()
            cut = distribute_tensor(parameter, mesh, [placement], src_data_rank=None)
            module.register_parameter(name, torch.nn.Parameter(cut))


def main(out: str, vision: str, language: str) -> None:
    parts = Part.of("vision", vision), Part.of("language", language)
    config = assembled_config(*parts, load_tokenizer(language))
    stock = Checkpoint.rows
    for place in (by_rows, experts_by_columns, experts_over_ranks):
        read_bytes: dict[str, int] = {}

        def counted(self, key, start, stop, *, read_bytes=read_bytes):
            rows = stock(self, key, start, stop)
            read_bytes[key] = read_bytes.get(key, 0) + rows.numel() * rows.element_size()
            return rows

        Checkpoint.rows = counted
        model = build(config, [source for part in parts for source in part.weights()], place=place)
        state = {
            name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            for name, tensor in model.state_dict().items()
        }
        rank = torch.distributed.get_rank()
        Path(f"{out}-{place.__name__}.{rank}.json").write_text(json.dumps(read_bytes))
        if rank == 0:
            torch.save(state, f"{out}-{place.__name__}.pt")
    Checkpoint.rows = stock


if __name__ == "__main__":
    faulthandler.dump_traceback_later(170, exit=True)  # a rank that waits in vain says where
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    for number, language in enumerate(sys.argv[3:]):
        main(f"{sys.argv[1]}/{number}", sys.argv[2], language)
    torch.distributed.destroy_process_group()
