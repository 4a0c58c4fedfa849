import pytest

from mindvl.data.render.split import PERCENT, SPLITS, WrongSplit, claim, is_open, split_of


def test_a_text_belongs_to_one_split_on_every_machine_and_in_any_case():
    assert [split_of(text) for text in ("velo", "tamir", "3+4=?")] == ["train", "train", "train"]
    assert split_of("Velo") == split_of("velo")


def test_words_are_divided_as_the_percentages_say():
    shares = [split_of(f"word{i}") for i in range(20_000)]
    for split in SPLITS:
        assert shares.count(split) / 200 == pytest.approx(PERCENT[split], abs=1)


@pytest.mark.parametrize(
    ("word", "open_word"), [("ab", True), ("a", False), ("42", False), ("420", True), ("4.20", True), ("x7", True)]
)
def test_only_words_that_are_many_are_divided(word, open_word):
    assert is_open(word) is open_word


def test_a_text_of_another_split_is_refused():
    split = split_of("velo")
    assert claim("velo", split=split) == "velo"
    with pytest.raises(WrongSplit):
        claim("velo", split=next(other for other in SPLITS if other != split))
