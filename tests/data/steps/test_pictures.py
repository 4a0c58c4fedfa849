from mindvl.data.raw import RawSample
from mindvl.data.steps.pictures import aspect_ratio, decodes, resolution


def test_bounds_of_resolution_are_included_and_hold_for_every_picture(raw):
    sample = raw(sizes=((28, 100), (50, 30)))
    assert resolution(sample, min_side_pixels=28, max_pixels=2800) is sample
    assert resolution(sample, min_side_pixels=29) == "picture too small"
    assert resolution(sample, max_pixels=2799) == "picture too large"


def test_the_bound_on_the_aspect_ratio_holds_for_wide_and_for_high_pictures(raw):
    for size in ((10, 40), (40, 10)):
        sample = raw(sizes=(size,))
        assert aspect_ratio(sample, max_ratio=4.0) is sample
        assert aspect_ratio(sample, max_ratio=3.9) == "picture too narrow"


def test_only_a_full_decode_finds_a_file_that_was_cut_off(raw):
    whole = raw(sizes=((64, 64),))
    cut = RawSample("k", whole.record, (whole.images[0][:-2000],))
    assert decodes(whole) is whole and resolution(cut) is cut
    assert decodes(cut) == "picture does not decode"


def test_every_frame_of_a_video_is_judged(picture):
    frames = (picture(64, 64), picture(64, 64, seed=1))
    whole = RawSample("k", {"messages": []}, (frames,))
    assert decodes(whole) is resolution(whole) is whole and resolution(whole, max_pixels=4095) == "picture too large"
    assert decodes(RawSample("k", {"messages": []}, ((frames[0], frames[1][:-2000]),))) == "picture does not decode"


def test_what_is_no_picture_is_unreadable(raw):
    sample = RawSample("k", {"messages": []}, (b"no picture",))
    assert resolution(sample) == aspect_ratio(sample) == "picture unreadable"


def test_samples_without_pictures_pass(raw):
    sample = raw()
    assert resolution(sample) is aspect_ratio(sample) is decodes(sample) is sample
