"""The summed loss against the one of all logits, and that all logits never exist."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mindvl.ops import loss
from mindvl.ops.loss import (
    Head,
    chunked_cross_entropy,
    cross_entropies,
    cross_entropy_reference,
    summed_cross_entropy,
)


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


def problem(rows, words=37, dim=6, *, seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    tensors = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in ((rows, dim), (words, dim), (words,))]
    return [*tensors, torch.randint(0, words, (rows,))]


@pytest.mark.parametrize("chunk_rows", [1, 4, 5, 1000])
def test_the_size_of_chunks_changes_nothing(chunk_rows, monkeypatch):
    monkeypatch.setattr(loss, "CHUNK_BYTES", chunk_rows * 37 * 4)
    monkeypatch.setattr(loss, "_CACHED_BYTES", 300)
    *tensors, targets = problem(13)
    targets[[2, 12]] = -100
    ours, theirs = chunked_cross_entropy(*tensors, targets), cross_entropy_reference(*tensors, targets)
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(3 * value, tensors) for value in (ours, theirs)]
    for mine, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, expected)


def test_no_more_logits_exist_at_a_time_than_a_chunk_may_hold(monkeypatch):
    monkeypatch.setattr(loss, "CHUNK_BYTES", 10 * 1000 * 4)
    rows, weight, _, targets = problem(64, words=1000)
    largest = [0]

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            sizes = [each.numel() for each in tree_leaves(result) if isinstance(each, torch.Tensor)]
            largest[0] = max(largest[0], *sizes, 0)
            return result

    with Watch():
        chunked_cross_entropy(rows, weight, None, targets).backward()
    assert largest[0] == 10 * 1000  # all logits would be 64,000 numbers


def test_gradients_that_nobody_asks_for_are_not_computed(monkeypatch):
    products = []
    original = loss._product
    monkeypatch.setattr(loss, "_product", lambda *arguments: products.append(1) or original(*arguments))
    rows, weight, _, targets = problem(9)
    counts = []
    for x, w in ((rows, weight), (rows, weight.detach()), (rows.detach(), weight), (rows.detach(), weight.detach())):
        products.clear()
        total = chunked_cross_entropy(x, w, None, targets)
        counts.append(len(products))
        if total.requires_grad:
            total.backward()
    with torch.no_grad():
        products.clear()
        chunked_cross_entropy(rows, weight, None, targets)
    assert counts == [3, 2, 2, 1] and len(products) == 1


def test_chunked_gradients_in_fp64_are_exact(monkeypatch):
    monkeypatch.setattr(loss, "CHUNK_BYTES", 3 * 7 * 4)
    *tensors, targets = problem(5, words=7, dim=3, dtype=torch.float64)
    targets[1] = -100

    ours, expected = (f(*tensors, targets) for f in (chunked_cross_entropy, cross_entropy_reference))
    for mine, theirs in zip(*(torch.autograd.grad(value, tensors) for value in (ours, expected)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_a_second_backward_pass_is_refused_in_a_sentence():
    rows, weight, _, targets = problem(3)
    total = chunked_cross_entropy(rows, weight, None, targets)
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="hands its gradients out once"):
        total.backward()


@pytest.mark.parametrize("largest", [1e4, -1e4])
def test_huge_logits_give_a_finite_loss_and_gradient(largest):
    rows, weight, _, targets = problem(3)
    total = chunked_cross_entropy(rows * largest, weight, None, targets)
    expected = cross_entropy_reference(rows * largest, weight, None, targets)
    torch.testing.assert_close(total, expected)
    assert torch.autograd.grad(total, rows)[0].isfinite().all()


@pytest.mark.parametrize("model_dtype", [torch.float32, torch.bfloat16], ids=["autocast", "a bf16 model"])
def test_in_bf16_the_loss_and_the_gradients_are_those_of_all_logits_to_its_rounding(model_dtype, monkeypatch):
    monkeypatch.setattr(loss, "CHUNK_BYTES", 50 * 400 * 4)
    hidden = torch.randn(300, 32).to(model_dtype).requires_grad_()
    head = Head(nn.Linear(32, 400, bias=False)).to(model_dtype)
    index, targets = torch.arange(300), torch.randint(0, 400, (300,))
    with torch.autocast("cpu", torch.bfloat16, enabled=model_dtype == torch.float32):
        ours = summed_cross_entropy(hidden, head, index, targets)
    theirs = cross_entropy_reference(hidden, head.weight, None, targets)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=0)
    gradients = [torch.autograd.grad(value, (hidden, head.weight)) for value in (ours, theirs)]
    for mine, expected in zip(*gradients, strict=True):
        assert mine.dtype == model_dtype
        assert (mine - expected).norm() <= 1e-2 * expected.norm()


def test_a_weight_tied_to_the_embedding_gets_both_gradients():
    embedding, ids = nn.Embedding(11, 6), torch.tensor([1, 5, 7])
    stock = nn.Linear(6, 11, bias=False)
    stock.weight = embedding.weight
    index, targets = torch.tensor([0, 2]), torch.tensor([4, 9])
    gradients = []
    for head in (Head(stock), stock):
        embedding.weight.grad = None
        if head is stock:
            F.cross_entropy(stock(embedding(ids)[index]), targets, reduction="sum").backward()
        else:
            summed_cross_entropy(embedding(ids), head, index, targets).backward()
        gradients.append(embedding.weight.grad.clone())
    torch.testing.assert_close(*gradients)


class Scaled(nn.Module):
    """A head that is no linear layer."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(11, 6))

    def forward(self, x):
        return 2 * F.linear(x, self.weight)


@pytest.mark.parametrize("kind", ["another module", "a linear layer with a hook", "a head whose forward was wrapped"])
def test_a_head_that_cannot_be_taken_apart_is_called_a_chunk_at_a_time(kind, monkeypatch):
    monkeypatch.setattr(loss, "CHUNK_BYTES", 2 * 11 * 4)
    torch.manual_seed(0)
    head = Scaled() if kind == "another module" else Head(nn.Linear(6, 11)) if "wrapped" in kind else nn.Linear(6, 11)
    calls = []
    if "hook" in kind:
        head.register_forward_hook(lambda module, args, output: 2 * output)
    if "wrapped" in kind:
        plain = head.forward
        head.forward = lambda x: 2 * plain(x)
    head.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    hidden = torch.randn(9, 6, requires_grad=True)
    index, targets = torch.tensor([1, 4, 5, 8, 0]), torch.tensor([3, 0, 10, -100, 2])
    ours = summed_cross_entropy(hidden, head, index, targets)
    assert calls == [2, 2, 1]
    theirs = F.cross_entropy(head(hidden[index]), targets, reduction="sum")
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(value, (hidden, head.weight)) for value in (ours, theirs)]
    for mine, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, expected)
    none = torch.zeros(0, dtype=torch.int64)
    assert summed_cross_entropy(hidden, head, none, none).item() == 0.0


@pytest.mark.parametrize("kind", ["a head of ours", "another module", "a linear layer"])
@pytest.mark.parametrize("chunk_rows", [1, 3, 1000])
def test_the_loss_of_each_position_is_that_of_all_logits(chunk_rows, kind, monkeypatch):
    monkeypatch.setattr(loss, "CHUNK_BYTES", chunk_rows * 11 * 4)
    torch.manual_seed(0)
    head = {"a head of ours": Head(nn.Linear(6, 11)), "another module": Scaled(), "a linear layer": nn.Linear(6, 11)}[
        kind
    ]
    hidden, index = torch.randn(9, 6), torch.tensor([1, 4, 5, 8, 0])
    targets = torch.tensor([3, 0, 10, -100, 2])
    each = cross_entropies(hidden, head, index, targets)
    torch.testing.assert_close(each, F.cross_entropy(head(hidden[index]), targets, reduction="none"))
    assert each[3] == 0 and not each.requires_grad
    torch.testing.assert_close(each.sum(), summed_cross_entropy(hidden, head, index, targets))
    none = torch.zeros(0, dtype=torch.int64)
    assert cross_entropies(hidden, head, none, none).shape == (0,)


def test_no_more_logits_of_single_losses_exist_at_a_time_than_a_chunk_may_hold(monkeypatch):
    monkeypatch.setattr(loss, "CHUNK_BYTES", 10 * 1000 * 4)
    calls = []
    head = Head(nn.Linear(6, 1000))
    original = loss._row_losses
    monkeypatch.setattr(
        loss, "_row_losses", lambda logits, targets: calls.append(len(logits)) or original(logits, targets)
    )
    cross_entropies(torch.randn(64, 6), head, torch.arange(64), torch.arange(64))
    assert sum(calls) == 64 and max(calls) <= 10


def test_a_head_gives_logits_as_the_layer_whose_place_it_takes():
    stock = nn.Linear(6, 11)
    ours, x = Head(stock), torch.randn(4, 6)
    assert ours.weight is stock.weight and torch.equal(ours(x), stock(x))


@pytest.fixture
def one_rank(tmp_path):
    """A process group of this process alone: FSDP2 cuts and gathers as it does with more."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize("supervised", [5, 0])
@pytest.mark.parametrize("sharded", ["the head", "the root"])
def test_a_head_that_fsdp_gathers_around_calls_is_called_once_with_or_without_targets(sharded, supervised, one_rank):
    torch.manual_seed(0)
    plain = nn.Linear(6, 11, bias=False)
    head = Head(copy.deepcopy(plain))
    calls = []
    head.register_forward_pre_hook(lambda module, args: calls.append(1))

    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.lm_head = head

        def forward(self, *inputs):
            return summed_cross_entropy(inputs[0], self.lm_head, *inputs[1:])

    root = Root()
    if sharded == "the head":
        fully_shard(head, mesh=one_rank)
    fully_shard(root, mesh=one_rank)
    assert isinstance(head.weight, DTensor)
    hidden = torch.randn(9, 6, requires_grad=True)
    index, targets = torch.arange(supervised), torch.arange(supervised)
    loss = root(hidden, index, targets)
    loss.backward()
    expected = F.cross_entropy(plain(hidden[index]), targets, reduction="sum") if supervised else 0 * plain.weight.sum()
    expected.backward()
    assert calls == [1]
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(head.weight.grad.full_tensor(), plain.weight.grad)
