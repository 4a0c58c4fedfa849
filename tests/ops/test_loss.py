import torch
from torch import nn
from torch.nn import functional as F

from mindvl.ops.loss import summed_cross_entropy


def test_the_loss_of_supervised_positions_equals_that_of_all_logits_with_the_others_ignored():
    torch.manual_seed(0)
    hidden, head = torch.randn(9, 6, requires_grad=True), nn.Linear(6, 11, bias=False)
    index, targets = torch.tensor([1, 4, 5, 8]), torch.tensor([3, 0, 10, 7])
    labels = torch.full((9,), -100).index_copy(0, index, targets)
    ours = summed_cross_entropy(hidden, head, index, targets)
    theirs = F.cross_entropy(head(hidden), labels, reduction="sum")
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(loss, (hidden, head.weight)) for loss in (ours, theirs)]
    for mine, stock in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, stock)


def test_without_supervised_tokens_the_loss_is_exactly_zero_with_zero_gradients():
    hidden, head = torch.randn(9, 6, requires_grad=True), nn.Linear(6, 11, bias=False)
    none = torch.zeros(0, dtype=torch.int64)
    loss = summed_cross_entropy(hidden, head, none, none)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(hidden.grad, torch.zeros(9, 6)) and torch.equal(head.weight.grad, torch.zeros(11, 6))


def test_the_loss_is_fp32_under_bf16_autocast():
    hidden, head = torch.randn(9, 6), nn.Linear(6, 11, bias=False)
    with torch.autocast("cpu", torch.bfloat16):
        loss = summed_cross_entropy(hidden, head, torch.tensor([1, 2]), torch.tensor([3, 4]))
    assert loss.dtype == torch.float32
