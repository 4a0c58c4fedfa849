"""Real shards as packs: what the plan promised is what the worker delivers."""

import json
import shutil
import tarfile
from collections import Counter

import numpy as np
import pytest
import torch

from mindvl.data.cost import CostModel
from mindvl.data.dataset import PackDataset
from mindvl.data.indexing import index_shards
from mindvl.data.mixture import Source
from mindvl.data.plan import PackBudget
from mindvl.data.reader import ShardReader
from mindvl.data.sample import PixelBudget
from mindvl.data.storage import find_shards
from mindvl.data.table import SampleTable
from mindvl.data.tokenizer import tokenizer_fingerprint
from mindvl.data.transport import PackLoader

PIXELS = PixelBudget(28 * 28, 64 * 28 * 28)


def table_of(folder, encoder, *, tokens=512, patches=2048, names=("ocr", "counting", "text"), images=99, **settings):
    sources = {name: Source(str(folder / "train" / f"{name}-*.tar")) for name in names}
    index_shards([shard for source in sources.values() for shard in find_shards(source.shards)], encoder)
    budget, tokenizer = PackBudget(tokens, patches, images), tokenizer_fingerprint(encoder.tokenizer)
    return SampleTable(sources, tokenizer=tokenizer, pixels=PIXELS, budget=budget, **settings)


def packs_of(table, encoder, *, supervise="answers", **settings):
    epoch = table.plan(weigh_by="epochs", packs_per_step=1, seed=0).epoch(0)
    dataset = PackDataset(table, encoder, supervise=supervise, window_tokens=2, **settings)
    return [(epoch.pack(number), dataset[epoch.pack(number).tolist()]) for number in range(len(epoch))]


def reasons(table) -> dict[str, int]:
    counts = Counter()
    for item, count in table.left_out.items():
        counts[f"{item.source}: {item.reason}"] += count
    return dict(counts)


def test_every_sample_of_the_shards_is_packed_once_with_the_tokens_and_patches_of_the_plan(corpus, encoder):
    samples = table_of(corpus, encoder)
    assert len(samples) == 80 and not samples.left_out
    keys = []
    for rows, batch in packs_of(samples, encoder):
        assert batch.doc_lengths == tuple(samples.tokens[rows])
        assert batch.num_tokens == sum(batch.doc_lengths) <= 512 == batch.token_budget
        assert batch.num_patches == samples.patches[rows].sum() and batch.num_images == samples.images[rows].sum()
        assert batch.keys == tuple(samples.key_of(row) for row in rows.tolist())
        assert batch.sources == tuple(samples.source_of(row) for row in rows.tolist()) and batch.skipped == ()
        keys.extend(batch.keys)
    assert len(set(keys)) == len(keys) == 80


def test_bounds_positions_and_targets_of_every_pack_are_right(corpus, encoder):
    samples = table_of(corpus, encoder)
    reader, end = ShardReader(), encoder.tokenizer.eos_token_id
    for rows, batch in packs_of(samples, encoder):
        assert batch.cu_seqlens.tolist() == [0, *np.cumsum(batch.doc_lengths)]
        expected = torch.cat([torch.arange(length) for length in batch.doc_lengths])
        assert torch.equal(batch.position_ids, expected)
        labels = torch.full_like(batch.input_ids, -1).index_copy(0, batch.supervised_index, batch.targets)
        for row, document in zip(rows.tolist(), labels.split(batch.doc_lengths), strict=True):
            record, _ = reader.sample(*samples.place_of(row))
            answers = [m["content"][0]["text"] for m in record["messages"] if m["role"] == "assistant"]
            learnt = document[document >= 0].tolist()
            spelled = encoder.tokenizer.decode(learnt).split("<|im_end|>")
            assert spelled == [*answers, ""] and learnt.count(end) == len(answers)


def test_text_supervision_learns_the_questions_too(corpus, encoder):
    samples = table_of(corpus, encoder, names=("text",))
    (_, answers), (_, text) = (packs_of(samples, encoder, supervise=kind)[0] for kind in ("answers", "text"))
    assert text.num_supervised > answers.num_supervised and torch.equal(text.input_ids, answers.input_ids)


def test_supervised_tokens_of_the_table_are_those_of_the_packs(corpus, encoder):
    for supervise in ("answers", "text"):
        table = table_of(corpus, encoder, supervise=supervise)
        for rows, batch in packs_of(table, encoder, supervise=supervise):
            assert batch.num_supervised == table.supervised[rows].sum()


@pytest.mark.parametrize("slot_bytes", [1 << 20, 60_000])
def test_data_workers_hand_over_the_same_packs_also_those_too_large_for_a_slot(slot_bytes, corpus, encoder):
    table = table_of(corpus, encoder)
    dataset = PackDataset(table, encoder, supervise="answers", window_tokens=2, fixed_shapes=True)
    rows = [rows.tolist() for rows, _ in packs_of(table, encoder)]
    for here, there in zip(
        map(dataset.__getitem__, rows), PackLoader(dataset, rows, slot_bytes=slot_bytes, num_workers=2), strict=True
    ):
        assert here.keys == there.keys and torch.equal(here.input_ids, there.input_ids)
        assert (here.vision is None) == (there.vision is None)
        if here.vision is not None:
            assert torch.equal(here.vision.patches, there.vision.patches)


def rewritten(corpus, folder, write_tar, change):
    """A copy of the first ocr shard with `change(name, data)` applied to every member."""
    (folder / "train").mkdir()
    source = next((corpus / "train").glob("ocr-*.tar"))
    with tarfile.open(source) as old:
        members = [
            (member.name, change(number, member.name, old.extractfile(member).read()))
            for number, member in enumerate(old.getmembers())
        ]
    write_tar(folder / "train" / "ocr-000000.tar", members)
    return folder


def break_pixels(data: bytes) -> bytes:
    place = data.index(b"IDAT") + 40
    return data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :]


def test_a_picture_that_fails_to_decode_leaves_a_hole_of_its_length_and_says_why(corpus, encoder, tmp_path, write_tar):
    folder = rewritten(
        corpus,
        tmp_path,
        write_tar,
        lambda number, name, data: break_pixels(data) if name.endswith(".png") and number < 6 else data,
    )
    table = table_of(folder, encoder, names=("ocr",))
    assert len(table) == 20, "headers are whole, so the plan holds them"
    packs = packs_of(table, encoder)
    skipped = [sample for _, batch in packs for sample in batch.skipped]
    assert len(skipped) == 3 and {(s.source, s.reason) for s in skipped} == {("ocr", "the picture does not decode")}
    assert {s.shard for s in skipped} == {str(folder / "train" / "ocr-000000.tar")}
    keys = {key for _, batch in packs for key in batch.keys}
    assert len(keys) == 17 and keys.isdisjoint(s.key for s in skipped)
    for rows, batch in packs:
        assert batch.num_tokens + batch.hole_tokens == table.tokens[rows].sum() == sum(batch.doc_lengths)
        assert batch.cu_seqlens[-1] == len(batch.input_ids) and len(batch.doc_lengths) == len(rows)
        assert (batch.supervised_index < batch.num_tokens).all()


def test_a_hole_changes_no_loss_of_its_neighbours(corpus, encoder, tmp_path, make_model, write_tar):
    with tarfile.open(next((corpus / "train").glob("ocr-*.tar"))) as shard:
        png = next(n for n, name in enumerate(shard.getnames()) if name.endswith(".png"))
    broken = rewritten(corpus, tmp_path, write_tar, lambda n, name, data: break_pixels(data) if n == png else data)
    (tmp_path / "good").mkdir()
    whole = rewritten(corpus, tmp_path / "good", write_tar, lambda n, name, data: data)
    tables = [table_of(folder, encoder, names=("ocr",), tokens=4096) for folder in (broken, whole)]
    rows = list(range(1, 5))
    datasets = [PackDataset(table, encoder, supervise="answers", window_tokens=2) for table in tables]
    model = make_model()
    with torch.no_grad():
        holed, clean = model(packed=datasets[0][[0, *rows]]).loss, model(packed=datasets[1][rows]).loss
    assert datasets[0][[0, *rows]].hole_tokens == tables[0].tokens[0] and torch.allclose(holed, clean, atol=1e-5)


def test_a_pack_of_which_nothing_is_left_is_label_free(corpus, encoder, tmp_path, make_model, write_tar):
    folder = rewritten(
        corpus, tmp_path, write_tar, lambda _, name, data: break_pixels(data) if name.endswith(".png") else data
    )
    table = table_of(folder, encoder, names=("ocr",))
    model = make_model()
    for rows, batch in packs_of(table, encoder):
        assert (batch.num_tokens, batch.num_supervised, batch.num_images) == (0, 0, 0)
        assert batch.hole_tokens == table.tokens[rows].sum() and len(batch.skipped) == len(rows)
    loss = model(packed=batch).loss
    loss.backward()
    assert loss.item() == 0 and all(p.grad is None or p.grad.eq(0).all() for p in model.parameters())


def test_an_empty_pack_of_the_plan_runs_the_model_on_one_token_that_teaches_nothing(corpus, encoder, make_model):
    batch = PackDataset(table_of(corpus, encoder), encoder, supervise="answers", window_tokens=2)[[]]
    assert (batch.num_tokens, batch.hole_tokens, batch.skipped, batch.keys) == (0, 1, (), ())
    assert make_model()(packed=batch).loss.item() == 0


def test_a_byte_that_changed_after_indexing_is_a_skipped_sample(corpus, encoder, tmp_path, write_tar):
    folder = rewritten(corpus, tmp_path, write_tar, lambda n, name, data: data)
    table = table_of(folder, encoder, names=("ocr",))
    shard, index, _ = table.place_of(0)
    with open(shard, "r+b") as file:  # noqa: PTH123
        file.seek(int(index.record_offset[0]) + 3)
        file.write(b"#")
    batch = PackDataset(table, encoder, supervise="answers", window_tokens=2)[[0, 1]]
    assert [sample.reason for sample in batch.skipped] == ["the bytes are not those that were indexed"]


# The table: what is left out, and what is cut.


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        ({"tokens": 60}, "ocr: longer than the sequence of 60 tokens"),
        ({"patches": 50}, "ocr: more than the budget of 50 patches"),
    ],
)
def test_a_sample_over_the_budget_is_left_out_of_the_plan_and_counted(budget, reason, corpus, encoder):
    whole, cut = table_of(corpus, encoder, names=("ocr",)), table_of(corpus, encoder, names=("ocr",), **budget)
    (name,) = budget
    over = (getattr(whole, name) > budget[name]).sum()
    assert 0 < over < 40 and reasons(cut) == {reason: over} and len(cut) == 40 - over


@pytest.fixture
def long_conversations(tmp_path, picture, write_tar):
    """Three conversations of three exchanges; the second has a picture of 4 visual tokens in each question."""

    def messages(images: int) -> bytes:
        content = [{"type": "image"}] * images + [{"type": "text", "text": "what is it?"}]
        return json.dumps(
            {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "x"}] * 3}
        ).encode()

    pictures = [(f"b.{n}.png", picture(56, 56, seed=n)) for n in range(3)]
    members = [("a.json", messages(0)), ("b.json", messages(1)), *pictures, ("c.json", messages(0))]
    (tmp_path / "train").mkdir()
    write_tar(tmp_path / "train" / "long-0.tar", members)
    return tmp_path


def test_a_long_conversation_is_cut_after_an_answer_and_is_then_as_long_as_planned(long_conversations, encoder):
    whole = table_of(long_conversations, encoder, names=("long",))
    text, visual = whole.tokens[0] // 3, (whole.tokens[1] - whole.tokens[0]) // 3  # of one exchange
    for exchanges, tokens in ((1, text + visual), (2, 2 * (text + visual)), (2, 3 * (text + visual) - 1)):
        table = table_of(long_conversations, encoder, names=("long",), tokens=int(tokens), too_long="cut")
        assert table.tokens[1] == exchanges * (text + visual) and table.images[1] == exchanges
        assert table.messages[1] == 2 * exchanges and table.supervised[1] == 2 * exchanges and not table.left_out
        sample = PackDataset(table, encoder, supervise="answers", window_tokens=2).encode(1)
        assert len(sample.grids) == exchanges and (sample.targets >= 0).sum() == 2 * exchanges
    assert table.cut_samples == {"long": 1}


def test_patches_and_images_cut_too_and_costs_are_those_of_the_rest(long_conversations, encoder):
    cost = CostModel(patch=1.0, patch_pair=0.5)
    for limit in ({"patches": 32}, {"images": 2}):
        table = table_of(long_conversations, encoder, names=("long",), too_long="cut", cost=cost, **limit)
        assert table.images.tolist() == [0, 2, 0] and table.patches.tolist() == [0, 32, 0]
        assert table.vision_cost.tolist() == [0, 2 * (16 + 128), 0]


def test_a_conversation_whose_first_exchange_is_too_long_is_left_out_all_the_same(long_conversations, encoder):
    table = table_of(long_conversations, encoder, names=("long",), patches=15, too_long="cut")
    assert reasons(table) == {"long: more than the budget of 15 patches": 1} and len(table) == 2


def test_without_the_policy_nothing_is_cut(long_conversations, encoder):
    table = table_of(long_conversations, encoder, names=("long",), images=2)
    assert reasons(table) == {"long: more than 2 images": 1} and not table.cut_samples


def test_an_aspect_ratio_over_the_limit_is_counted(encoder, tmp_path, picture, corpus, write_tar):
    def swap(number, name, data):
        return picture(2, 500) if number < 2 and name.endswith(".png") else data

    table = table_of(rewritten(corpus, tmp_path, write_tar, swap), encoder, names=("ocr",))
    assert reasons(table) == {"ocr: a picture's aspect ratio is over 200": 1} and len(table) == 19


def test_a_source_without_usable_samples_is_refused_with_the_reasons(corpus, encoder):
    with pytest.raises(ValueError, match=r"source ocr has 0 usable samples in .*longer than the sequence"):
        table_of(corpus, encoder, tokens=5, names=("ocr",))


def test_what_is_left_out_is_told_once_for_each_reason_with_a_sample_and_its_shard(
    tmp_path, encoder, record, write_tar
):
    (tmp_path / "train").mkdir()
    for number in range(2):
        bad = [(f"bad{number}-{n}.json", b'{"caption": "' + b"x" * n + b'\xe9"}') for n in range(200)]
        write_tar(
            tmp_path / "train" / f"s-{number}.tar", [("good.json", record()), *bad, ("late.json", record("?" * 999))]
        )
    table = table_of(tmp_path, encoder, names=("s",))
    first = tmp_path / "train" / "s-0.tar"
    assert table.left_out_lines("s") == [
        f"left out 400 samples of s: the record is not UTF-8 (such as bad0-0 in {first})",
        f"left out 2 samples of s: longer than the sequence of 512 tokens (such as late in {first})",
    ]
    with pytest.raises(
        ValueError, match=r"0 usable samples in .*: left out 400 samples .*; left out 4 samples of s: longer"
    ):
        table_of(tmp_path, encoder, names=("s",), tokens=5)


@pytest.mark.parametrize("folder", [None, "indexes"])
def test_a_shard_that_is_gone_while_its_index_stayed_is_no_smaller_epoch(folder, corpus, tmp_path, encoder):
    index_folder = str(tmp_path / folder) if folder else None
    for shard in find_shards(corpus / "train"):
        shutil.copy(shard, tmp_path)
    index_shards(find_shards(tmp_path), encoder, folder=index_folder)
    (tmp_path / "ocr-000001.tar").unlink()
    with pytest.raises(ValueError, match=r"1 of \d indexed shards are missing: .*/ocr-000001\.tar is not there"):
        SampleTable(
            {"ocr": Source(str(tmp_path / "ocr-*.tar"))},
            tokenizer=tokenizer_fingerprint(encoder.tokenizer),
            pixels=PIXELS,
            budget=PackBudget(512, 512),
            index_folder=index_folder,
        )


def test_a_shard_without_an_index_is_refused_by_name(corpus, encoder):
    source = {"ocr": Source(str(corpus / "train" / "ocr-*.tar"))}
    with pytest.raises(
        ValueError, match=r"shard .*ocr-000000\.tar has no index for this tokenizer: run `mindvl data index`"
    ):
        SampleTable(source, tokenizer="another", pixels=PIXELS, budget=PackBudget(512, 512))


def test_the_plan_is_the_same_for_a_second_reading(corpus, encoder):
    plans = [table_of(corpus, encoder).plan(weigh_by="tokens", packs_per_step=2, seed=3) for _ in range(2)]
    assert plans[0].fingerprint == plans[1].fingerprint
