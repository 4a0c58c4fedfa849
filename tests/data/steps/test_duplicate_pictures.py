import io

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from mindvl.data.raw import RawSample
from mindvl.data.render.config import check_config
from mindvl.data.render.sample import draw_document
from mindvl.data.steps.corpus import Entry
from mindvl.data.steps.duplicate_pictures import DuplicatePictures, alike

pytest.importorskip("imagehash")


def verdicts(step, samples):
    return step.verdicts([Entry(sample.key, "train", step.signature(sample)) for sample in samples])


def encoded(image, format, **settings):
    with io.BytesIO() as stream:
        image.save(stream, format, **settings)
        return stream.getvalue()


@pytest.fixture(scope="module")
def pages():
    """25 different lines of text in free layouts."""
    source = check_config({"sources": {"a": {"family": "ocr_line", "train": 25}}}).sources["a"]
    return [draw_document(source, seed=0, split="train", index=index).image for index in range(25)]


def of_picture(data, text="what?", key="k"):
    return RawSample(key, {"messages": [{"role": "user", "content": text}]}, (data,))


@settings(deadline=None)
@example(44, 19, 1)  # a copy without a single bit turned over, near a third hash
@given(st.integers(0, 10_000), st.integers(0, 20), st.integers(1, 2))
def test_banding_finds_exactly_the_pairs_of_a_full_comparison(seed, max_distance, pictures):
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 256, (12, pictures, 8), np.uint8)
    for copy in range(6):  # near copies: some bits of an earlier hash turned over
        flips = rng.random((pictures, 64)) < rng.uniform(0, 0.25)
        hashes[6 + copy] = hashes[copy] ^ np.packbits(flips, axis=1)
    distances = np.unpackbits(hashes[:, None] ^ hashes[None], axis=3).sum(axis=3).max(axis=2)
    first = [int(np.flatnonzero(row == 0)[0]) for row in distances]  # of the rows that equal this one
    near = {(i, j) for i in range(12) for j in range(i + 1, 12) if distances[i, j] <= max_distance}
    distinct = {(i, j) for i, j in near if first[i] == i and first[j] == j}
    expected = distinct | {(first[j], j) for j in range(12) if first[j] != j}
    assert set(alike(hashes, max_distance=max_distance)) == expected


def test_recompressed_and_rescaled_copies_fall_to_the_first(pages):
    page = pages[0]
    half = page.resize((page.width // 2, page.height // 2), Image.Resampling.BICUBIC)
    copies = [encoded(page, "PNG"), encoded(page, "JPEG", quality=60), encoded(half, "PNG"), encoded(pages[1], "PNG")]
    dropped = "looks like an earlier picture"
    assert verdicts(DuplicatePictures(), [of_picture(data) for data in copies]) == [None, dropped, dropped, None]


def test_the_default_hash_keeps_pages_of_text_apart_where_64_bits_do_not(pages):
    samples = [of_picture(encoded(page, "PNG")) for page in pages]
    assert verdicts(DuplicatePictures(), samples) == [None] * 25
    assert any(verdicts(DuplicatePictures(hash_size=8), samples))


def test_questions_about_one_picture_stay_unless_words_do_not_matter(pages):
    data = encoded(pages[0], "PNG")
    samples = [of_picture(data, "first word?"), of_picture(data, "last word?"), of_picture(data, "first word?")]
    dropped = "looks like an earlier picture"
    assert verdicts(DuplicatePictures(), samples) == [None, None, dropped]
    assert verdicts(DuplicatePictures(same_text=False), samples) == [None, dropped, dropped]


def test_samples_of_several_pictures_are_alike_only_if_all_of_them_are(raw):
    one, two = raw(sizes=((60, 60), (60, 90)), seed=1), raw(sizes=((60, 60), (60, 90)), seed=1)
    other = RawSample("k", one.record, (one.images[0], raw(sizes=((60, 90),), seed=9).images[0]))
    assert verdicts(DuplicatePictures(), [one, other, two]) == [None, None, "looks like an earlier picture"]


def test_text_alone_and_unreadable_pictures_are_left_to_others(raw):
    unreadable = RawSample("k", {"messages": []}, (b"none",))
    assert verdicts(DuplicatePictures(), [raw(), raw(), unreadable, unreadable]) == [None] * 4
