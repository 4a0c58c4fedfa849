import pytest

from mindvl.data.importing.choices import ask_with_choices
from mindvl.data.importing.hf import import_hf
from mindvl.data.importing.outcome import Refusal, Rejected


@pytest.mark.parametrize("answer", [1, 1.0, "1", " 1 ", "B", "b", "(B)", "B.", "blue", ["blue"]])
def test_a_number_a_letter_and_the_choice_itself_all_become_the_letter(answer):
    assert ask_with_choices("Which?", ["red", " blue", 7], answer) == ("Which?\nA. red\nB. blue\nC. 7", "B")


@pytest.mark.parametrize(
    ("choices", "answer", "reason"),
    [
        (["red", "blue"], 2, "the answer is none of the choices"),
        (["red", "blue"], -1, "the answer is none of the choices"),
        (["red", "blue"], "green", "the answer is none of the choices"),
        (["red", "blue"], "C", "the answer is none of the choices"),
        (["red", "blue"], 0.5, "the answer is none of the choices"),
        (["red", "blue"], True, "the answer is none of the choices"),
        (["red", "blue"], None, "the answer is none of the choices"),
        (["red", "blue"], ["red", "blue"], "the answer is none of the choices"),
        (["0", "2", "1"], "1", "the answer may be the number of one choice and the text of another"),
        (["B", "A"], "B", "the answer may be the number of one choice and the text of another"),
        ("red, blue", 1, "the choices are no list"),
        (["red", None], 0, "a choice is not text"),
        (["red", " "], 0, "a choice is not text"),
        (["x"] * 27, 0, "there are more choices than letters"),
    ],
)
def test_what_cannot_be_a_letter_is_refused_with_a_reason(choices, answer, reason):
    with pytest.raises(Refusal) as caught:
        ask_with_choices("Which?", choices, answer)
    assert caught.value.reason == reason


def test_a_number_among_numbers_is_read_as_a_place_where_it_is_stored_as_one():
    assert ask_with_choices("Which?", ["0", "2", "1"], 1)[1] == "B"
    assert ask_with_choices("Which?", ["0", "1", "2"], "1")[1] == "B"


def test_rows_of_multiple_choice_show_their_choices_and_rows_without_stay_as_they_are(tmp_path, picture):
    parquet, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    png = {"bytes": picture(28, 28), "path": None}
    rows = [
        {"image": png, "question": "Which?", "choices": ["red", "blue"], "answer": "1"},
        {"image": None, "question": "Which?", "choices": ["red", "blue"], "answer": "0"},
        {"image": png, "question": "How many?", "choices": None, "answer": "3"},
        {"image": png, "question": "How many?", "choices": [], "answer": "3"},
        {"image": png, "question": "Which?", "choices": ["red", "blue"], "answer": "3"},
    ]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "train.parquet")
    *samples, rejected = import_hf(tmp_path, tmp_path)
    said = [[message["content"][-1]["text"] for message in sample.messages] for sample in samples]
    asked = "Which?\nA. red\nB. blue"
    assert said == [[asked, "B"], [asked, "A"], ["How many?", "3"], ["How many?", "3"]]
    assert rejected == Rejected("00000005", "the answer is none of the choices")
