import pytest
import torch.distributed as dist

from mindvl.parallel.mesh import MeshSizes, build_meshes
from mindvl.parallel.pretend import pretend_world


def test_a_pretended_rank_stands_where_a_real_one_would():
    with pretend_world(1024, rank=67):
        meshes = build_meshes(MeshSizes(expert=64).over(1024), "cpu")
        assert (meshes.expert.get_local_rank("expert"), meshes.expert.get_local_rank("shard")) == (3, 1)
    assert not dist.is_initialized()


def test_a_rank_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="no rank 4 among 4 ranks"), pretend_world(4, rank=4):
        pass


def test_no_world_is_pretended_inside_another():
    with pretend_world(2), pytest.raises(ValueError, match="one of a group already"), pretend_world(2):
        pass
