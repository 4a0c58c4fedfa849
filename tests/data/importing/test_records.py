import codecs
import json

import pytest

from mindvl.data.importing.outcome import Rejected
from mindvl.data.importing.records import first_records, read_records

A, B = {"id": "a", "text": "读图"}, {"id": "b"}


def write(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def lines(*records):
    return "\n".join(json.dumps(record, ensure_ascii=False) for record in records)


@pytest.mark.parametrize("bom", [b"", codecs.BOM_UTF8])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", json.dumps([A, B], ensure_ascii=False, indent=2)),
        ("a.json", "\n " + lines([A, B])),
        ("a.json", lines(A, B)),  # lines under the other name
        ("a.jsonl", lines(A, B) + "\n"),
        ("a.JSONL", lines(A, B).replace("\n", "\r\n")),
    ],
)
def test_lists_and_lines_are_read_with_and_without_a_byte_order_mark(tmp_path, bom, name, text):
    path = write(tmp_path, name, bom + text.encode())
    assert list(read_records(path)) == [("00000001", A), ("00000002", B)]
    assert first_records(path) == [A, B] and first_records(path, 1) == [A]


def test_bad_lines_are_rejected_by_number_and_the_rest_is_read(tmp_path):
    text = b"\n".join([b'{"id": "a"}', b"", b"{broken", b'{"id": "\xff"}', b"[1]", b'{"id": "b"}', b"9" * 5000])
    assert list(read_records(write(tmp_path, "a.jsonl", text))) == [
        ("00000001", {"id": "a"}),
        Rejected("line 3", "the line is not JSON"),
        Rejected("line 4", "the line is not UTF-8"),
        Rejected("line 5", "the record is not an object"),
        ("00000006", {"id": "b"}),
        Rejected("line 7", "the line is not JSON"),  # Python refuses numbers of more than 4300 digits
    ]


def test_entries_of_a_list_that_are_no_objects_are_rejected(tmp_path):
    path = write(tmp_path, "a.json", '[{"id": "a"}, 7, null]')
    assert list(read_records(path))[1:] == [
        Rejected("entry 2", "the record is not an object"),
        Rejected("entry 3", "the record is not an object"),
    ]
    assert first_records(path) == [{"id": "a"}]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'[\n{"id": 1},\n{"id" 2}\n]', r"a\.json, line 3, column 7: not JSON: Expecting ':' delimiter"),
        (b'[{"id": 1}', r"a\.json, line 1, column 11: not JSON: Expecting ',' delimiter"),
        (b"", r"a\.json, line 1, column 1: not JSON"),
        (b'[\n"caf\xe9"]', r"a\.json, line 2: byte 6 is 0xe9, not UTF-8"),
        (b'{\n"id": 1\n}', r"a\.json holds a dict, not a list of records"),
        ("[1]".encode("utf-16"), r"a\.json is UTF-16 text; save it as UTF-8"),
        (b"[" * 100_000, r"a\.json is not JSON that can be read"),
    ],
)
def test_a_broken_file_is_one_error_with_the_place(tmp_path, data, message):
    with pytest.raises(ValueError, match=message):
        list(read_records(write(tmp_path, "a.json", data)))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.json is not a file"):
        list(read_records(tmp_path / "none.json"))


def test_a_line_longer_than_the_first_look_is_still_a_line(tmp_path):
    long = {"id": "x" * 100_000}
    path = write(tmp_path, "a.json", lines(long, B))
    assert list(read_records(path)) == [("00000001", long), ("00000002", B)]
