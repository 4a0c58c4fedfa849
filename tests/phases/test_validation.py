"""Losses by source are those of their documents run one by one, whatever they are packed with."""

import math
from dataclasses import replace

import pytest
import torch

from mindvl.data.module import PackedShards, Source
from mindvl.data.pack import pack_samples
from mindvl.phases import Multitask
from mindvl.phases.validation import SourceLoss


@pytest.fixture
def sources(samples):
    """The four documents: the first and third of one source, the others of two more."""
    return [replace(sample, source=name) for sample, name in zip(samples, ("a", "b", "a", "c"), strict=True)]


def losses_of(model, *packs):
    kept = SourceLoss()
    with torch.no_grad():
        for pack in packs:
            kept.add(pack, model(packed=pack, each_loss=True).loss)
    return kept.report()


def alone(model, pack, samples):
    """(nats, supervised tokens) of documents, each in a pack of its own."""
    with torch.no_grad():
        single = [pack(sample) for sample in samples]
        nats = sum(model(packed=each).loss.double().item() for each in single)
    return nats, sum(each.num_supervised for each in single)


@pytest.mark.parametrize("split", [(4,), (1, 3), (3, 1), (1, 1, 1, 1)], ids=str)
def test_losses_of_a_source_are_those_of_its_documents_alone(split, make_model, sources, pack):
    model, order = make_model(), iter(sources)
    found = losses_of(model, *(pack(*(next(order) for _ in range(size))) for size in split))
    assert set(found) == {
        f"validation/{kind}{name}" for kind in ("loss", "perplexity") for name in ("", "/a", "/b", "/c")
    }
    for name in ("", "a", "b", "c"):
        nats, tokens = alone(model, pack, [sample for sample in sources if name in ("", sample.source)])
        place = f"/{name}" if name else ""
        assert found[f"validation/loss{place}"] == pytest.approx(nats / tokens, rel=1e-6)
        assert found[f"validation/perplexity{place}"] == pytest.approx(math.exp(nats / tokens), rel=1e-5)


def test_padding_and_holes_of_a_pack_belong_to_no_source(make_model, sources, pack):
    padded = pack_samples(sources, token_budget=4096, merge=2, window_tokens=2, fixed_shapes=True)
    assert len(padded.targets) > padded.num_supervised and padded.cu_seqlens[-1] > padded.num_tokens
    model = make_model()
    assert losses_of(model, padded) == pytest.approx(losses_of(model, pack(*sources)), rel=1e-6)


def test_a_source_without_supervised_tokens_is_not_reported(make_model, sources, pack):
    silent = replace(sources[1], targets=sources[1].targets * 0 - 1)
    found = losses_of(make_model(), pack(sources[0], silent))
    assert set(found) == {f"validation/{kind}{name}" for kind in ("loss", "perplexity") for name in ("", "/a")}
    assert found["validation/loss"] == found["validation/loss/a"]


def test_without_packs_nothing_is_reported():
    assert SourceLoss().report() == {}


def test_a_validation_logs_the_loss_of_every_source(make_spec, with_weights, make_trainer, corpus):
    folder = corpus / "validation"
    sources = {name: Source(str(folder / f"{name}-*.tar")) for name in ("ocr", "counting")}
    together, alone = [], {}
    for length in (256, 1024):
        data = PackedShards({}, validation=sources, sequence_length=length, workers=0)
        together += make_trainer().validate(with_weights(Multitask(make_spec())), data, verbose=False)
    for name, source in sources.items():
        data = PackedShards({}, validation={name: source}, sequence_length=256, workers=0)
        (alone[name],) = make_trainer().validate(with_weights(Multitask(make_spec())), data, verbose=False)
    for logged in together:
        for name in sources:
            assert logged[f"validation/loss/{name}"] == pytest.approx(alone[name]["validation/loss"], rel=1e-5)
