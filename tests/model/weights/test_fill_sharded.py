"""Two ranks that own slices of a model fill them with what one process would, and read no more than they need."""

import json
from pathlib import Path

import pytest
import torch

from mindvl.data.tokenizer import load_tokenizer
from mindvl.model.mindvl import MindVL
from mindvl.model.weights.shards import local_part

FAMILIES = ("qwen3_moe", "deepseek_v3")
SETTINGS = ("by_rows", "experts_by_columns", "experts_over_ranks")


@pytest.fixture(scope="module")
def folders(make_language, make_vision):
    """A tower, and two language models with experts; of 263 rows of their embeddings, ragged slices that grow by 9."""
    return make_vision(), [make_language(family, vocab_size=263, shards=True) for family in FAMILIES]


@pytest.fixture(scope="module")
def written(folders, tmp_path_factory, run_ranks):
    """The folder that two ranks wrote."""
    out = tmp_path_factory.mktemp("filled")
    run_ranks(Path(__file__).with_name("fill_ranks.py"), out, folders[0], *folders[1])
    return out


@pytest.fixture(params=[0, 1], ids=FAMILIES)
def filled(request, folders, written):
    """What the ranks wrote of one language model, and the model that one process builds."""
    vision, languages = folders
    language = languages[request.param]
    model = MindVL.from_pretrained(vision=str(vision), language=str(language), tokenizer=load_tokenizer(language))
    return f"{written}/{request.param}-", model


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_slices_of_two_ranks_are_the_model_of_one_process(setting, filled):
    start, model = filled
    state, expected = torch.load(f"{start}{setting}.pt"), model.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor), name


def test_a_rank_reads_the_rows_of_its_slice_alone(filled):
    start, model = filled
    ranks = [json.loads(Path(f"{start}by_rows.{rank}.json").read_text()) for rank in range(2)]
    matrices = [key for key in ranks[0] if key.endswith(("q_proj.weight", "o_proj.weight", "kv_b_proj.weight"))]
    assert matrices
    for key in matrices:
        whole_bytes = model.state_dict()[f"language_model.{key}"].nbytes
        assert ranks[0][key] == ranks[1][key] == whole_bytes / 2, key
    experts = [{key for key in rank if ".experts." in key} for rank in ranks]
    assert experts[0] and experts[1] and not experts[0] & experts[1]


@pytest.fixture
def fake_ranks():
    """A function that runs as one of four ranks, which exchange nothing."""
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    def enter(rank: int):
        if dist.is_initialized():
            dist.destroy_process_group()
        dist.init_process_group("fake", rank=rank, world_size=4, store=FakeStore())

    yield enter
    dist.destroy_process_group()


@pytest.mark.parametrize("rows", [8, 16, 12])
def test_a_strided_shard_is_one_piece_at_the_place_where_its_rows_are(rows, fake_ranks):
    from torch.distributed.tensor import DTensor, Shard
    from torch.distributed.tensor.placement_types import _StridedShard

    found = []
    for rank in range(4):
        fake_ranks(rank)
        mesh = torch.distributed.init_device_mesh("cpu", (2, 2))
        # FSDP over the first dimension of the mesh of what the second has cut before
        size = rows // 4
        cut = DTensor.from_local(
            torch.zeros(size, 3),
            mesh,
            [_StridedShard(0, split_factor=2), Shard(0)],
            run_check=False,
            shape=torch.Size((rows, 3)),
            stride=(3, 1),
        )
        local, place = local_part(cut)
        assert local.shape == (size, 3) and place[1] == (0, 3)
        found.append(place[0])
    quarter = rows // 4
    assert found == [(0, quarter), (2 * quarter, 3 * quarter), (quarter, 2 * quarter), (3 * quarter, rows)]


def test_a_sharding_that_scatters_rows_is_refused(fake_ranks):
    from torch.distributed.tensor import DTensor, Replicate
    from torch.distributed.tensor.placement_types import _StridedShard

    fake_ranks(0)
    mesh = torch.distributed.init_device_mesh("cpu", (2, 2))
    cut = DTensor.from_local(
        torch.zeros(4, 3),
        mesh,
        [_StridedShard(0, split_factor=2), Replicate()],
        run_check=False,
        shape=torch.Size((8, 3)),
        stride=(3, 1),
    )
    with pytest.raises(ValueError, match="scatters rows: 2 stripes, but 1 cuts after it"):
        local_part(cut)
