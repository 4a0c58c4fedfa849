import importlib.util

import pytest

from mindvl.data.steps.table import STEPS, check_installed, check_step, make_step


def test_every_step_says_what_it_does_and_has_a_default_for_every_argument(raw):
    for name, kind in STEPS.items():
        assert kind.purpose.endswith((".", ")", ").")) or len(kind.purpose) > 20, name
        assert set(kind.bounds) <= set(kind.defaults), name
        assert check_step(name, {}) == kind.defaults
        assert check_step(name, kind.defaults) == kind.defaults
        step = make_step(name, kind.defaults)
        if kind.needs is None:
            assert step.signature(raw()) if kind.sees_corpus else step(raw()).key == "k"


def test_given_arguments_replace_defaults():
    assert check_step("resolution", {"max_pixels": 5}) == {"min_side_pixels": 28, "max_pixels": 5}
    assert check_step("aspect_ratio", {"max_ratio": 3}) == {"max_ratio": 3.0}


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resolutoin", {}, "unknown step 'resolutoin'; did you mean resolution?"),
        ("poem", {}, "unknown step 'poem'; known are well_formed"),
        ("resolution", {"max_pixel": 3}, "step resolution has no argument 'max_pixel'; did you mean max_pixels?"),
        ("decodes", {"fast": True}, "step decodes has no argument 'fast'; it takes none"),
        ("resolution", {"max_pixels": "many"}, "resolution.max_pixels is 'many'; it must be of type int"),
        ("resolution", {"max_pixels": True}, "resolution.max_pixels is True; it must be of type int"),
        ("resolution", None, "step resolution has None for its arguments"),
        ("subset", {"ratio": 1.5}, "subset.ratio is 1.5; it must be from 0 to 1"),
        ("text_length", {"min_chars": -1}, "text_length.min_chars is -1; it must not be negative"),
        ("duplicate_pictures", {"same_text": 1}, "duplicate_pictures.same_text is 1; it must be of type bool"),
    ],
)
def test_what_a_step_cannot_do_is_refused_in_words(name, arguments, message):
    with pytest.raises(ValueError) as error:
        check_step(name, arguments)
    assert str(error.value).startswith(message)


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"duplicate_texts needs the library datasketch: pip install 'mindvl\[cura"):
        check_installed("duplicate_texts")
    check_installed("resolution")
