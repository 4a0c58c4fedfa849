"""Sizes of a mesh: what is left, who reads what, and every way in which they do not divide."""

import pytest

from mindvl.parallel.mesh import MeshSizes


def test_minus_one_is_what_the_other_sizes_leave():
    sizes = MeshSizes(replicate=2, expert=4, context=2, tensor=2).over(64)
    assert (sizes.shard, sizes.world, sizes.data, sizes.pack) == (8, 64, 16, 4)
    assert (sizes.dense_shard, sizes.expert_shard) == (16, 8)


def test_ranks_of_one_pack_lie_side_by_side():
    sizes = MeshSizes(tensor=2).over(8)
    assert [sizes.data_rank(rank) for rank in range(8)] == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("sizes", "world", "complaint"),
    [
        ({"tensor": 3}, 8, r"replicate 1 x context 1 x tensor 3 does not divide 8 ranks"),
        ({"shard": 2, "tensor": 2}, 8, r"shard 2 x context 1 x tensor 2 is 4, but there are 8 ranks"),
        ({"shard": -1, "replicate": -1}, 8, r"replicate and shard are both -1"),
        ({"tensor": 0}, 8, r"strategy.tensor is 0"),
        ({"expert": -1}, 8, r"strategy.expert is -1"),
        ({"expert": 3}, 8, r"strategy.expert is 3, which does not divide shard 8 x context 1 x tensor 1 = 8 ranks"),
        ({"expert": 8, "replicate": 2}, 8, r"expert is 8, .* shard 4"),
    ],
)
def test_sizes_that_do_not_fit_the_ranks_are_named(sizes, world, complaint):
    with pytest.raises(ValueError, match=complaint):
        MeshSizes(**sizes).over(world)


@pytest.mark.parametrize(
    ("sizes", "model", "complaint"),
    [
        ({"expert": 4}, {"heads": 8, "key_value_heads": 8, "experts": 6}, "expert is 4, .* 6 experts per layer"),
        ({"expert": 4}, {"heads": 8, "key_value_heads": 8, "experts": None}, "expert is 4, .* no experts"),
        (
            {"tensor": 4},
            {"heads": 8, "key_value_heads": 2, "experts": None},
            "4, which does not divide 8 .* 2 key-value",
        ),
        (
            {"context": 4},
            {"heads": 6, "key_value_heads": None, "experts": None},
            "context is 4 .* divide 6 attention heads",
        ),
    ],
)
def test_a_model_that_cannot_be_shared_out_evenly_is_refused(sizes, model, complaint):
    with pytest.raises(ValueError, match=complaint):
        MeshSizes(**sizes).over(8).check_model(**model)


def test_attention_that_stays_whole_may_have_any_number_of_heads():
    sizes = MeshSizes(tensor=4).over(8)
    sizes.check_model(heads=6, key_value_heads=None, experts=None)
    with pytest.raises(ValueError, match="does not divide 6"):
        sizes.check_model(heads=6, key_value_heads=6, experts=None)
