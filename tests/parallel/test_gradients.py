"""The gradient norm of one process; those of meshes are compared with it in test_meshes.py."""

import pytest
import torch

from mindvl.parallel.gradients import clip_, gradient_norm


def test_the_norm_is_that_of_all_gradients_end_to_end():
    gradients = [torch.randn(5, 3), torch.randn(7), torch.randn(())]
    whole = torch.cat([gradient.flatten() for gradient in gradients])
    assert gradient_norm(gradients).item() == pytest.approx(whole.norm().item(), rel=1e-6)


def test_gradients_are_scaled_down_to_the_limit_and_never_up():
    gradients = [torch.tensor([3.0]), torch.tensor([4.0])]
    clip_(gradients, gradient_norm(gradients), 10.0)
    assert [gradient.item() for gradient in gradients] == [3, 4]
    clip_(gradients, gradient_norm(gradients), 1.0)
    assert [gradient.item() for gradient in gradients] == pytest.approx([0.6, 0.8], rel=1e-5)
