"""Texts become samples as the paper cuts them."""

import pytest

from mindvl.routing.texts import cut_samples, domain_of, read_documents, text_files


def letters(text):
    return [ord(letter) for letter in text]


def cut(documents, **settings):
    given = {"length": 8, "max_samples": 99, "end_token_id": 0} | settings
    return ["".join(map(chr, sample)).replace("\0", "e") for sample in cut_samples(documents, letters, **given)]


def test_the_toy_of_the_docstring():
    assert cut(["aaaaa", "bbb", "cccccc"]) == ["aaaaaebb", "becccccc"]


def test_without_an_end_token_documents_touch():
    assert cut(["aaaaa", "bbb"], end_token_id=None) == ["aaaaabbb"]


def test_documents_are_kept_apart_and_cut_at_the_length():
    assert cut(["aaaaa", "", "b" * 20], keep_documents=True) == ["aaaaa", "b" * 8]


def test_no_more_documents_are_read_than_samples_are_wanted():
    def endless():
        while True:
            yield "abc"

    assert len(cut(endless(), max_samples=5)) == 5


def test_too_little_text_makes_no_sample_and_no_length_is_refused():
    assert cut(["abc"]) == []
    with pytest.raises(ValueError, match="length of a sample is 0 tokens"):
        cut(["abc"], length=0)


def test_files_folders_and_globs_are_found_and_their_numbers_are_no_domain(tmp_path, monkeypatch):
    for name in ("code-00001.jsonl", "code-00002.jsonl", "deep/book.txt", "deep/picture.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert [path.name for path in text_files(tmp_path)] == ["code-00001.jsonl", "code-00002.jsonl", "book.txt"]
    assert len(text_files(tmp_path / "code-*.jsonl")) == 2
    monkeypatch.chdir(tmp_path)
    assert len(text_files("code-*.jsonl")) == 2
    assert {domain_of(path) for path in text_files(tmp_path)} == {"code", "book"}
    with pytest.raises(ValueError, match="names no text file"):
        text_files(tmp_path / "nothing-*.txt")
    with pytest.raises(ValueError, match=r"picture\.png: texts are read from"):
        text_files(tmp_path / "deep" / "picture.png")


def test_lines_of_jsonl_are_documents_and_a_broken_one_is_named(tmp_path):
    good, bad, latin = tmp_path / "good.jsonl", tmp_path / "bad.jsonl", tmp_path / "latin.txt"
    good.write_text('{"text": "one"}\n\n{"text": " "}\n{"text": "two"}\n')
    assert list(read_documents([good])) == ["one", "two"]
    for content, words in (
        ('{"text": "one"}\n{"text": "tw', r'line 2 is no JSON record with a "text"'),
        ('{"body": "one"}\n', "line 1 is no JSON record"),
        ("[1]\n", "line 1 is no JSON record"),
        ('{"text": 3}\n', '"text" of line 1 is int, not a string'),
    ):
        bad.write_text(content)
        with pytest.raises(ValueError, match=words):
            list(read_documents([bad]))
    latin.write_bytes("Wäsche".encode("latin-1"))
    with pytest.raises(ValueError, match="is no UTF-8 text"):
        list(read_documents([latin]))
