import pytest


@pytest.fixture
def photo(picture, tmp_path):
    file = tmp_path / "photo.png"
    file.write_bytes(picture(60, 90))
    return file


def test_a_question_on_the_command_line_is_answered_in_one_line(trained, photo, mindvl):
    answered = mindvl("chat", trained.model, photo, "what is the text?", "--max-new-tokens", 3)
    assert answered.status == 0, answered.err
    assert answered.out.endswith("\n") and answered.err == ""


def test_without_a_question_the_conversation_goes_on_until_the_input_ends(trained, photo, mindvl, monkeypatch):
    questions = iter(["what is the text?", "and the first word?"])

    def asked(prompt):
        try:
            return next(questions)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", asked)
    answered = mindvl("chat", trained.model, photo, "--max-new-tokens", 2)
    assert answered.status == 0, answered.err
    assert next(questions, None) is None


def test_the_pixel_budget_of_a_chat_must_not_be_upside_down(trained, photo, mindvl):
    refused = mindvl("chat", trained.model, photo, "?", "--min-pixels", 9000, "--max-pixels", 800)
    assert (refused.status, refused.err) == (2, "mindvl chat: min_pixels is 9000, more than max_pixels, 800\n")


def test_a_missing_picture_is_named(trained, mindvl, tmp_path):
    refused = mindvl("chat", trained.model, tmp_path / "none.png", "?")
    assert (refused.status, refused.err) == (2, f"mindvl chat: picture {tmp_path}/none.png is not a file\n")


def test_a_file_that_is_no_picture_is_refused(trained, mindvl, tmp_path):
    (tmp_path / "note.png").write_text("not a picture")
    refused = mindvl("chat", trained.model, tmp_path / "note.png", "?")
    assert refused.status == 2
    assert refused.err.startswith("mindvl chat: the picture does not decode: ") and refused.err.count("\n") == 1


def test_a_folder_that_is_no_model_is_refused(photo, mindvl, tmp_path):
    refused = mindvl("chat", tmp_path, photo, "?")
    assert (refused.status, refused.err) == (2, f"mindvl chat: {tmp_path} is no saved model: it has no config.json\n")
