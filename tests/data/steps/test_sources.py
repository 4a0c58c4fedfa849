import json
from dataclasses import replace

import pytest

from mindvl.data.importing.outcome import Rejected
from mindvl.data.raw import RawSample
from mindvl.data.render.config import check_config
from mindvl.data.render.sample import draw_document, encode_sample
from mindvl.data.shard_writer import ShardWriter
from mindvl.data.steps.sources import files_of, read_unit, sources_version, units_of


def read_all(recipe):
    return [made for unit in units_of(recipe) for made in read_unit(recipe, unit)]


def llava_record(name, picture, question="what?"):
    said = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": "a line"}]
    return {"id": name, "image": picture, "conversations": said}


@pytest.fixture
def downloads(tmp_path, picture):
    """A LLaVA file with four records: one picture is missing, and one id is there twice."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    (folder / "1.png").write_bytes(picture(30, 40))
    records = [
        llava_record("a", "1.png"),
        llava_record("b", "2.png"),
        llava_record("a", "1.png"),
        llava_record("c", "1.png"),
    ]
    (folder / "chat.json").write_text(json.dumps(records))
    return folder


def test_units_cover_all_documents_once_and_a_trial_takes_the_first(recipe):
    config = {"a": {"render": {"family": "stem", "train": 450, "test": 3}}}
    units = units_of(recipe(sources=config))
    assert [(u.split, u.first, u.count) for u in units] == [
        ("train", 0, 200), ("train", 200, 200), ("train", 400, 50), ("test", 0, 3),
    ]  # fmt: skip
    assert [unit.number for unit in units] == [0, 1, 2, 3]
    assert [(u.split, u.count) for u in units_of(recipe(sources=config, samples=5))] == [("train", 5), ("test", 3)]


def test_rendered_samples_are_those_of_the_renderer_with_their_category(recipe):
    made = read_all(recipe())
    source = check_config({"cell_pixels": 28, "sources": {"stem": {
        "family": "stem", "train": 30, "operand": [0, 9], "kinds": ["arithmetic"], "operations": ["+"],
    }}}).sources["stem"]  # fmt: skip
    document = draw_document(source, seed=3, split="train", index=4)
    members = encode_sample(document, source, split="train", index=4, image_format="png")
    mine = next(sample for sample in made if sample.key == "stem-train-000004")
    assert mine.images == (members["0.png"],)
    assert mine.record == {**json.loads(members["json"]), "category": "sums"}
    assert len({sample.key for sample in made}) == len(made) == 78


def test_an_import_yields_samples_and_refusals_under_keys_of_their_own(recipe, downloads):
    settings = {"format": "llava", "path": str(downloads / "chat.json")}
    made = read_all(recipe(sources={"chat": {"import": settings, "split": "test", "category": "talk"}}))
    assert [type(entry) for entry in made] == [RawSample, Rejected, RawSample, RawSample]
    assert [entry.key for entry in made] == ["chat/0/a", "chat/0/b", "chat/0/a~~2", "chat/0/c"]
    assert made[1].reason == "the picture's file is missing"
    record = made[0].record
    assert (record["source"], record["category"], record["split"]) == ("chat", "talk", "test")


def test_a_limit_is_counted_over_all_files_of_a_source(recipe, downloads):
    (downloads / "chat2.json").write_text(json.dumps([llava_record("d", "1.png"), llava_record("e", "1.png")]))
    settings = {"format": "llava", "path": str(downloads / "chat*.json"), "images": str(downloads)}
    keys = [
        [made.key for made in read_all(recipe(sources={"chat": {"import": settings, **limit}}))]
        for limit in ({}, {"limit": 5})
    ]
    assert len(keys[0]) == 6 and len(units_of(recipe(sources={"chat": {"import": settings}}))) == 2
    assert keys[1] == keys[0][:5] == ["chat/0/a", "chat/0/b", "chat/0/a~~2", "chat/0/c", "chat/1/d"]


def test_shards_of_different_files_may_share_keys(recipe, raw, tmp_path):
    for name in ("one", "two"):
        with ShardWriter(tmp_path, name) as writer:
            writer.write(raw(name, "yes", ((28, 28),), key="same"))
    made = read_all(recipe(sources={"own": {"shards": str(tmp_path / "*.tar")}}))
    assert [sample.key for sample in made] == ["own/0/same", "own/1/same"]
    assert [sample.messages[0]["content"][-1]["text"] for sample in made] == ["one", "two"]


def test_a_record_of_a_shard_that_is_no_conversation_is_refused_with_a_reason(recipe, raw, tmp_path):
    with ShardWriter(tmp_path, "one") as writer:
        writer.write(RawSample("bad", {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant"}]}))
        writer.write(raw(key="good"))
    bad, good = read_all(recipe(sources={"own": {"shards": str(tmp_path)}}))
    assert (bad.key, good.key) == ("own/0/bad", "own/0/good")
    assert isinstance(bad, Rejected) and bad.reason.startswith("a message")


def test_orphans_and_bad_records_of_a_shard_are_refused_in_their_places(recipe, picture, record, tmp_path, write_tar):
    members = [("orphan.png", picture(28, 28)), ("a.json", record()), ("cut.json", b"{"), ("twice.json", record())]
    members += [("twice.json", record("other")), ("b.json", record()), ("latin.txt", b"\xe9")]
    shard = write_tar(tmp_path / "one.tar", members)
    made = read_all(recipe(sources={"own": {"shards": shard}}))
    assert [entry.key.removeprefix("own/0/") for entry in made] == ["orphan", "a", "cut", "twice", "b", "latin"]
    assert [entry.reason for entry in made if isinstance(entry, Rejected)] == [
        "no .json or .txt record",
        "the record is not JSON",
        "a member is there twice",
        "the record is not UTF-8",
    ]


@pytest.mark.parametrize("optional", [False, True])
def test_a_shard_that_is_gone_while_its_index_stayed_is_no_smaller_source(
    recipe, record, tmp_path, write_tar, optional
):
    write_tar(tmp_path / "one.tar", [("a.json", record())])
    (tmp_path / "two.tar.index.npz").touch()
    with pytest.raises(
        ValueError, match=r"sources\.own\.shards: 1 of 1 indexed shards are missing: .*/two\.tar is not"
    ):
        recipe(sources={"own": {"shards": str(tmp_path), "optional": optional}})


def test_the_version_of_the_sources_changes_with_their_files(recipe, downloads):
    given = recipe(sources={"chat": {"import": {"format": "llava", "path": str(downloads / "chat.json")}}})
    before = sources_version(given)
    assert before == sources_version(given)
    (downloads / "chat.json").write_text("[]")
    assert before != sources_version(given)


def test_a_hugging_face_folder_is_divided_by_its_files(recipe, picture, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pytest.importorskip("pyarrow").table
    for number in range(2):
        column = [{"bytes": picture(28, 28, seed=number), "path": "1.png"}]
        rows = table({"image": column, "q": ["how many?"], "answer": [str(number)]})
        parquet.write_table(rows, tmp_path / f"train-{number:05d}-of-00002.parquet")
    settings = {"format": "hf", "path": str(tmp_path), "question_column": "q", "answer_column": "answer"}
    given = recipe(sources={"counts": {"import": settings}})
    assert len(files_of(given.sources[0])) == len(units_of(given)) == 2
    assert [sample.messages[1]["content"][0]["text"] for sample in read_all(given)] == ["0", "1"]
    wrong = {**settings, "dataset_split": "dev"}
    with pytest.raises(ValueError, match=r"sources.counts.import: .*no split 'dev'.*\(here: dataset_split\)"):
        recipe(sources={"counts": {"import": wrong}})


def test_an_optional_source_that_is_not_there_has_no_units(recipe):
    given = recipe()
    assert {unit.source for unit in units_of(given)} == {"ocr", "stem", "text"}
    with pytest.raises(ValueError, match=r"sources\.absent\.import\.path nowhere\.json is not there; `optional: true`"):
        recipe(sources={"absent": {"import": {"format": "llava", "path": "nowhere.json"}}})
    assert replace(given, samples=4).limit_of(given.sources[0]) == 4
