import pytest

from mindvl.data.reasons import reason_of


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("the picture does not decode: cut at byte 7: 3 left", "the picture does not decode"),
        ("message 12 is an empty answer", "a message is an empty answer"),
        ("message 0 has an unknown role: 'robot'; known are user", "a message has an unknown role"),
        ("no supervised token", "no supervised token"),
    ],
)
def test_a_reason_is_the_same_for_all_samples_that_are_wrong_in_one_way(error, reason):
    assert reason_of(ValueError(error)) == reason
