import shutil

from mindvl.data.tokenizer import load_tokenizer


def test_index_counts_samples_and_writes_an_index_beside_each_shard(corpus, mindvl, tmp_path):
    for shard in (corpus / "train").glob("counting-*.tar"):
        shutil.copy(shard, tmp_path)
    indexed = mindvl("data", "index", tmp_path)
    assert indexed.status == 0, indexed.err
    assert indexed.out.splitlines()[-1] == "20 samples in 1 shards, 0 cannot be used"
    assert [path.name for path in tmp_path.glob("*.index.npz")] == ["counting-000000.tar.index.npz"]


def test_index_names_an_empty_shard(mindvl, tmp_path):
    (tmp_path / "none.tar").touch()
    refused = mindvl("data", "index", tmp_path / "none.tar")
    assert refused.status == 2
    assert refused.complaint == f"mindvl data: shard {tmp_path}/none.tar is empty: 0 bytes"


def test_index_names_a_missing_folder(mindvl, tmp_path):
    refused = mindvl("data", "index", tmp_path / "none" / "*.tar")
    assert refused.status == 2
    assert f"the folder {tmp_path}/none does not exist" in refused.err


def test_tokenizer_saves_one_that_knows_the_words(mindvl, tmp_path):
    saved = mindvl("data", "tokenizer", tmp_path / "tokenizer", "--words", "what is")
    assert saved.status == 0, saved.err
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    assert saved.err == f"{len(tokenizer)} tokens under {tmp_path}/tokenizer\n"
    assert [len(tokenizer.encode(text, add_special_tokens=False)) for text in ("what is", "whatis")] == [2, 6]


def test_render_draws_what_its_options_say(mindvl, tmp_path):
    drawn = mindvl("data", "render", tmp_path / "drawn", "--families", "stem", "--samples", 2, "--workers", 1)
    assert drawn.status == 0, drawn.err
    assert [path.name for path in (tmp_path / "drawn" / "train").iterdir()] == ["stem-000000.tar"]


def test_an_unknown_family_is_refused_in_one_line(mindvl, tmp_path):
    refused = mindvl("data", "render", tmp_path / "drawn", "--families", "poem")
    assert refused.status == 2
    assert refused.err.startswith("mindvl data: unknown family 'poem'; known families are ")
    assert refused.err.count("\n") == 1
