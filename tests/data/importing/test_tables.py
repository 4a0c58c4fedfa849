import sys

import pytest

from mindvl.data.importing.tables import as_json, read_rows, table_columns, table_files

pyarrow = pytest.importorskip("pyarrow")


def parquet(path, rows):
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=40)
    return path


ROWS = [
    {"id": number, "question": f"问 {number}", "picture": {"bytes": bytes([number]), "path": None}}
    for number in range(100)
]


def test_parquet_rows_come_in_order_with_the_columns_asked_for(tmp_path):
    path = parquet(tmp_path / "a.parquet", ROWS)
    assert list(read_rows(path, ["picture", "id"])) == [{"picture": r["picture"], "id": r["id"]} for r in ROWS]
    assert table_columns(path) == ["id", "question", "picture"]


def test_what_save_to_disk_writes_is_read_too(tmp_path):
    table = pyarrow.Table.from_pylist(ROWS)
    path = tmp_path / "train" / "data-00000-of-00001.arrow"
    path.parent.mkdir()
    with pyarrow.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=30)
    assert table_files(tmp_path) == [path]
    assert list(read_rows(path, ["picture", "id"])) == [{"picture": r["picture"], "id": r["id"]} for r in ROWS]
    assert table_columns(path) == ["id", "question", "picture"]


def test_splits_are_never_mixed_without_a_word(tmp_path):
    names = [
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002-0123456789abcdef.parquet",
        "test/0000.parquet",
    ]
    paths = [parquet(tmp_path / name, ROWS[:1]) for name in names]
    with pytest.raises(ValueError, match="holds 2 splits: test, train; choose one with --split"):
        table_files(tmp_path)
    assert table_files(tmp_path, split="train") == paths[:2]
    assert table_files(tmp_path, split="test,train") == [paths[2], *paths[:2]]
    assert table_files(tmp_path / "data") == paths[:2]
    assert table_files(paths[2]) == [paths[2]]
    with pytest.raises(ValueError, match="no split 'dev'; there are: test, train"):
        table_files(tmp_path, split="dev")
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"holds no \.parquet files"):
        table_files(tmp_path / "none")


def test_damaged_files_and_missing_columns_are_named(tmp_path):
    path = parquet(tmp_path / "a.parquet", ROWS)
    with pytest.raises(ValueError, match=r"a\.parquet has no column 'answer'; there are: id, question, picture"):
        list(read_rows(path, ["id", "answer"]))
    for name, text in (("b.parquet", b"version https://git-lfs.github.com/spec/v1"), ("c.arrow", b"no arrow")):
        (tmp_path / name).write_bytes(text)
        with pytest.raises(ValueError, match=rf"{name} is not a readable (parquet file|arrow stream)"):
            list(read_rows(tmp_path / name, ["id"]))
    data = bytearray(path.read_bytes())
    data[4:200] = bytes(196)  # the first pages; the footer is whole
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.parquet cannot be read"):
        list(read_rows(path, ["id", "question"]))


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"pip install 'mindvl\[hf\]'"):
        table_columns(tmp_path / "a.parquet")


def test_a_column_of_json_text_is_parsed():
    assert as_json('[{"role": "user"}]') == [{"role": "user"}]
    assert as_json("[not json") == "[not json" and as_json("plain") == "plain" and as_json(None) is None
