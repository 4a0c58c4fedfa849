"""Real shards as packs: what the plan promised is what the worker delivers."""

import io
import json
import re
import tarfile

import numpy as np
import pytest
import torch

from mindvl.data.dataset import PackDataset, ShardSamples
from mindvl.data.plan import PackBudget
from mindvl.data.sample import PixelBudget
from mindvl.data.shards import ShardReader

PIXELS = PixelBudget(28 * 28, 64 * 28 * 28)


def samples_of(corpus, encoder, *, tokens=512, patches=2048, names=("ocr", "counting", "text"), **budget):
    sources = {name: str(corpus / "train" / f"{name}-*.tar") for name in names}
    return ShardSamples(sources, encoder, PIXELS, PackBudget(tokens, patches, **budget))


def packs_of(samples, *, supervise="answers"):
    plan = samples.plan(dict.fromkeys(samples.names, 1.0), seed=0)
    dataset = PackDataset(samples, supervise=supervise, window_tokens=2)
    return [(rows, dataset[rows.tolist()]) for rows in plan.round(0)]


def test_every_sample_of_the_shards_is_packed_once_with_the_tokens_and_patches_of_the_plan(corpus, encoder):
    samples = samples_of(corpus, encoder)
    assert len(samples.tokens) == 80 and not samples.skipped
    keys = []
    for rows, batch in packs_of(samples):
        assert batch.doc_lengths == tuple(samples.tokens[rows])
        assert batch.num_tokens == sum(batch.doc_lengths) <= 512 == batch.token_budget
        assert batch.num_patches == samples.patches[rows].sum() and batch.num_images == samples.images[rows].sum()
        assert batch.keys == tuple(samples.key_of(row) for row in rows.tolist())
        assert batch.sources == tuple(samples.source_of(row) for row in rows.tolist()) and batch.skipped == {}
        keys.extend(batch.keys)
    assert len(set(keys)) == len(keys) == 80


def test_bounds_positions_and_targets_of_every_pack_are_right(corpus, encoder):
    samples = samples_of(corpus, encoder)
    reader, end = ShardReader(), encoder.tokenizer.eos_token_id
    for rows, batch in packs_of(samples):
        assert batch.cu_seqlens.tolist() == [0, *np.cumsum(batch.doc_lengths)]
        expected = torch.cat([torch.arange(length) for length in batch.doc_lengths])
        assert torch.equal(batch.position_ids, expected)
        labels = torch.full_like(batch.input_ids, -1).index_copy(0, batch.supervised_index, batch.targets)
        for row, document in zip(rows.tolist(), labels.split(batch.doc_lengths), strict=True):
            record, _ = samples.read(row, reader)
            answers = [m["content"][0]["text"] for m in record["messages"] if m["role"] == "assistant"]
            learnt = document[document >= 0].tolist()
            spelled = encoder.tokenizer.decode(learnt).split("<|im_end|>")
            assert spelled == [*answers, ""] and learnt.count(end) == len(answers)


def test_text_supervision_learns_the_questions_too(corpus, encoder):
    samples = samples_of(corpus, encoder, names=("text",))
    (_, answers), (_, text) = (packs_of(samples, supervise=kind)[0] for kind in ("answers", "text"))
    assert text.num_supervised > answers.num_supervised and torch.equal(text.input_ids, answers.input_ids)


def rewritten(corpus, folder, change):
    """A copy of the first ocr shard with `change(name, data)` applied to every member."""
    (folder / "train").mkdir()
    source = next((corpus / "train").glob("ocr-*.tar"))
    with tarfile.open(source) as old, tarfile.open(folder / "train" / "ocr-000000.tar", "w") as new:
        for number, member in enumerate(old.getmembers()):
            data = change(number, member.name, old.extractfile(member).read())
            info = tarfile.TarInfo(member.name)
            info.size = len(data)
            new.addfile(info, io.BytesIO(data))
    return folder


def break_pixels(data: bytes) -> bytes:
    place = data.index(b"IDAT") + 40
    return data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :]


def test_a_picture_that_fails_to_decode_is_left_out_and_counted_by_reason(corpus, encoder, tmp_path):
    folder = rewritten(
        corpus,
        tmp_path,
        lambda number, name, data: break_pixels(data) if name.endswith(".png") and number < 6 else data,
    )
    samples = samples_of(folder, encoder, names=("ocr",))
    assert len(samples.tokens) == 20, "headers are whole, so the plan holds them"
    batches = [batch for _, batch in packs_of(samples)]
    total = sum(batch.skipped.get("ocr: the picture does not decode", 0) for batch in batches)
    assert total == 3 and sum(len(batch.keys) for batch in batches) == 17
    assert all(sum(batch.doc_lengths) == batch.num_tokens for batch in batches)


def test_a_pack_of_which_nothing_is_left_is_a_label_free_hole(corpus, encoder, tmp_path, make_model):
    folder = rewritten(corpus, tmp_path, lambda _, name, data: break_pixels(data) if name.endswith(".png") else data)
    samples = samples_of(folder, encoder, names=("ocr",))
    model = make_model()
    for rows, batch in packs_of(samples):
        assert (batch.num_tokens, batch.num_supervised, batch.num_images) == (1, 0, 0)
        assert batch.skipped == {"ocr: the picture does not decode": len(rows)}
    loss = model(packed=batch).loss
    loss.backward()
    assert loss.item() == 0 and all(p.grad is None or p.grad.eq(0).all() for p in model.parameters())


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        ({"tokens": 60}, "ocr: longer than the sequence of 60 tokens"),
        ({"patches": 50}, "ocr: more than the budget of 50 patches"),
    ],
)
def test_a_sample_over_the_budget_is_left_out_of_the_plan_and_counted(budget, reason, corpus, encoder):
    whole, cut = samples_of(corpus, encoder, names=("ocr",)), samples_of(corpus, encoder, names=("ocr",), **budget)
    (name,) = budget
    over = (getattr(whole, name) > budget[name]).sum()
    assert 0 < over < 40 and cut.skipped == {reason: over} and len(cut.tokens) == 40 - over


def test_too_many_pictures_are_counted_too(corpus, encoder, tmp_path, picture):
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "?"}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "a"}]
    rows = [
        ("a.json", json.dumps({"messages": messages}).encode()),
        ("a.0.png", picture(28, 28)),
        ("a.1.png", picture(28, 28)),
    ]
    rows.append(("b.json", json.dumps({"messages": [{"role": "user", "content": "x"}, messages[1]]}).encode()))
    (tmp_path / "train").mkdir()
    with tarfile.open(tmp_path / "train" / "many-0.tar", "w") as archive:
        for name, data in rows:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    samples = samples_of(tmp_path, encoder, names=("many",), images=1)
    assert samples.skipped == {"many: more than 1 images": 1} and len(samples.tokens) == 1


def test_an_aspect_ratio_over_the_limit_is_counted(encoder, tmp_path, picture, corpus):
    def swap(number, name, data):
        return picture(2, 500) if number < 2 and name.endswith(".png") else data

    samples = samples_of(rewritten(corpus, tmp_path, swap), encoder, names=("ocr",))
    assert samples.skipped == {"ocr: a picture's aspect ratio is over 200": 1} and len(samples.tokens) == 19


def test_a_source_without_usable_samples_is_refused_with_the_reasons(corpus, encoder):
    with pytest.raises(
        ValueError, match=re.escape("source ocr has 0 usable samples in") + ".*longer than the sequence"
    ):
        samples_of(corpus, encoder, tokens=5, names=("ocr",))


def test_the_plan_is_the_same_for_a_second_reading(corpus, encoder):
    plans = [samples_of(corpus, encoder).plan({"ocr": 1, "counting": 0.5, "text": 2}, seed=3) for _ in range(2)]
    assert plans[0].fingerprint == plans[1].fingerprint
