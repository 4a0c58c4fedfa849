"""Shapes are types at boundaries: under tests a wrong one is refused where it enters."""

import pytest
import torch
from jaxtyping import TypeCheckError

from mindvl.batch import VisionInputs
from mindvl.ops.loss import summed_cross_entropy


def test_a_function_refuses_a_tensor_of_the_wrong_rank():
    with pytest.raises(TypeCheckError, match="hidden"):
        summed_cross_entropy(torch.randn(3), torch.nn.Linear(3, 4), torch.tensor([0]), torch.tensor([0]))


def test_a_function_refuses_two_axes_of_one_name_that_differ():
    with pytest.raises(TypeCheckError, match="targets"):
        summed_cross_entropy(torch.randn(2, 3), torch.nn.Linear(3, 4), torch.tensor([0]), torch.tensor([0, 1]))


def test_a_dataclass_refuses_fields_whose_axes_disagree(samples, pack):
    vision = pack(*samples).vision
    with pytest.raises(TypeCheckError, match="position_ids"):
        VisionInputs(**{**vars(vision), "position_ids": vision.position_ids[1:]})
