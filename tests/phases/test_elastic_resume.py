"""A run that two ranks began is finished by one, and the other way round: the same samples, the same losses.

Some pictures do not decode, which each rank finds out on its own.
"""

import json
import runpy
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import pytest

STEPS, STOP = 6, 3
FIT_RANKS = Path(__file__).with_name("fit_ranks.py")


def break_pictures(shard: Path, *, count: int) -> None:
    """Change a byte in the middle of the first pictures: their headers stay good."""
    with tarfile.open(shard) as tar:
        pictures = [member for member in tar if not member.name.endswith(".json")][:count]
    data = bytearray(shard.read_bytes())
    for picture in pictures:
        data[picture.offset_data + picture.size // 2] ^= 1
    shard.write_bytes(data)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, corpus, make_model, run_ranks):
    """By ranks: the run without a stop, its first half, and its second half by the other number of ranks."""
    folder = tmp_path_factory.mktemp("elastic")
    make_model().save_pretrained(folder / "model")
    shutil.copytree(corpus / "train", folder / "corpus")
    break_pictures(folder / "corpus" / "ocr-000000.tar", count=6)
    fit_ranks = runpy.run_path(str(FIT_RANKS))["main"]
    fit_ranks(folder, ranks=1, steps=STEPS, resume=False)
    fit_ranks(folder, ranks=1, steps=STOP, resume=False)
    run_ranks(FIT_RANKS, folder)
    fit_ranks(folder, ranks=1, steps=STEPS, resume=True)

    def read(ranks: int, part: str | int) -> dict:
        records = [json.loads((folder / f"{ranks}-{part}.{rank}.json").read_text()) for rank in range(ranks)]
        together = [keys for step in zip(*(record["keys"] for record in records), strict=True) for keys in step]
        assert all(record["losses"] == records[0]["losses"] for record in records)
        assert all(record["consumed"] == records[0]["consumed"] for record in records)
        return {**records[0], "keys": together}

    return read


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_another_number_of_ranks_sees_exactly_the_remaining_samples_with_the_same_losses_to_the_bit(
    before, after, runs
):
    whole, first, second = runs(1, STEPS), runs(before, STOP), runs(after, "resumed")
    assert len(whole["keys"]) == STEPS * 2 and len(first["keys"]) == STOP * 2
    assert first["keys"] + second["keys"] == whole["keys"]
    assert first["losses"] + second["losses"] == whole["losses"]


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_record_of_consumed_data_does_not_depend_on_the_ranks(ranks, runs):
    assert runs(ranks, "resumed")["consumed"] == runs(1, STEPS)["consumed"]


@pytest.mark.parametrize("ranks", [1, 2])
def test_what_the_ranks_have_skipped_before_and_after_the_stop_is_no_part_of_the_record(ranks, runs):
    first, second = runs(3 - ranks, STOP), runs(ranks, "resumed")
    trained = Counter(key.partition("-")[0] for keys in first["keys"] + second["keys"] for key in keys)
    assert {name: source["drawn"] for name, source in second["consumed"].items()} == trained
    counted = [record["consumed"]["ocr"]["skipped"] for record in (first, second)]
    assert 0 < counted[0] < counted[1] <= 6
