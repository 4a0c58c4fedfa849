"""Videos become frames at import: which ones, how large, and what is refused."""

import os
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mindvl.data.images import image_size, open_image
from mindvl.data.importing.outcome import Refusal
from mindvl.data.importing.pictures import PictureFolder
from mindvl.data.importing.videos import FrameSampling, load_video

av = pytest.importorskip("av")

GREYS = [8 * number for number in range(30)]
"""One grey for each frame, which tells the frame's number after any codec."""


def numbers(frames) -> list[int]:
    return [round(float(np.asarray(open_image(frame)).mean()) / 8) for frame in frames]


def encode(path, codec, pictures):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        (stream.width, stream.height), stream.pix_fmt = pictures[0].size, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """clip.gif, clip.webp, clip.mp4 and clip.webm of 30 frames, 10 a second, 64x96 pixels; stills/ with its frames."""
    folder = tmp_path_factory.mktemp("videos")
    pictures = [Image.new("RGB", (96, 64), (grey, grey, grey)) for grey in GREYS]
    for name in ("clip.gif", "clip.webp"):
        pictures[0].save(folder / name, save_all=True, append_images=pictures[1:], duration=100, lossless=True)
    for name, codec in (("clip.mp4", "libx264"), ("clip.webm", "libvpx-vp9"), ("clip.avi", "mpeg4")):
        encode(folder / name, codec, pictures)
    (folder / "stills").mkdir()
    for number, picture in enumerate(pictures):
        picture.save(folder / "stills" / f"frame_{number}.png")
    (folder / "stills" / "notes.txt").write_text("not a frame")
    return folder


def load(folder, reference, **sampling):
    return load_video(reference, PictureFolder(folder), FrameSampling(**sampling))


@settings(deadline=None, max_examples=200)
@given(st.integers(2, 5000), st.floats(0.5, 120), st.floats(0.1, 30), st.integers(2, 800))
def test_the_frames_are_those_that_transformers_takes(stock, total, filmed_fps, fps, max_frames):
    metadata = type("Metadata", (), {"total_num_frames": total, "fps": filmed_fps})
    theirs = stock.sample_frames(metadata, fps=fps, max_frames=max_frames).tolist()
    ours = FrameSampling(fps=fps, max_frames=max_frames).indices(total, filmed_fps)
    if theirs != ours:  # their steps are fractions of 24 bits, which fall just below a whole number
        count = len(ours)
        exact = [number for number in range(count) if number * total % count == 0]
        assert len(theirs) - count in (0, 1)
        assert all(abs(a - b) <= (number in exact) for number, (a, b) in enumerate(zip(ours, theirs, strict=False)))


def test_a_video_of_one_frame_or_none_that_is_known_is_not_divided_by():
    assert FrameSampling().indices(1, 25.0) == [0] and FrameSampling(max_frames=1).indices(10, None) == [0]
    assert FrameSampling(max_frames=4).indices(10, None) == [0, 2, 5, 7]


@pytest.mark.parametrize("name", ["clip.gif", "clip.webp", "clip.mp4", "clip.webm", "clip.avi"])
def test_two_frames_a_second_are_taken_of_any_file(folder, name):
    video = load(folder, name)
    assert numbers(video.frames) == [0, 5, 10, 15, 20, 25] and video.fps == 2.0
    assert {image_size(frame) for frame in video.frames} == {(64, 96)}
    video = load(folder, name, fps=100, max_frames=8)
    assert numbers(video.frames) == [0, 3, 7, 11, 15, 18, 22, 26] and video.fps == pytest.approx(8 / 3, abs=1e-3)


def test_what_pillow_reads_stays_as_it_is(folder):
    frames = load(folder, "clip.gif", fps=10).frames
    assert all(frame.startswith(b"\x89PNG") for frame in frames) and len(frames) == 30
    assert [open_image(frame).getpixel((5, 5))[0] for frame in frames] == GREYS


def test_a_folder_of_frames_is_read_in_the_order_of_their_numbers(folder):
    video = load(folder, "stills")
    assert numbers(video.frames) == list(range(30)) and video.fps is None
    assert video.frames[2] == (folder / "stills" / "frame_2.png").read_bytes()
    assert numbers(load(folder, "stills", max_frames=4).frames) == [0, 7, 15, 22]


def test_a_list_of_frames_is_read_in_its_own_order(folder):
    names = [f"stills/frame_{number}.png" for number in (4, 2, 9)]
    assert numbers(load(folder, names).frames) == [4, 2, 9]


def test_a_still_picture_is_a_video_of_one_frame(folder):
    assert numbers(load(folder, "stills/frame_7.png").frames) == [7]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif"])
def test_frames_larger_than_training_shows_are_shrunk_to_whole_visual_tokens(folder, name):
    frames = load(folder, name, max_pixels=28 * 28 * 4).frames
    assert {image_size(frame) for frame in frames} == {(28, 56)} and numbers(frames) == [0, 5, 10, 15, 20, 25]


def test_a_video_that_was_filmed_upright_is_turned(tmp_path):
    half_white = np.zeros((64, 96, 3), np.uint8)
    half_white[:, :48] = 255
    encode(tmp_path / "lying.mp4", "libx264", [Image.fromarray(half_white)] * 4)
    data = bytearray((tmp_path / "lying.mp4").read_bytes())
    matrix = data.index(b"tkhd") + 44
    clockwise = (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    data[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in clockwise)
    (tmp_path / "turned.mp4").write_bytes(data)
    frame = np.asarray(open_image(load(tmp_path, "turned.mp4").frames[0]))
    assert frame.shape == (96, 64, 3) and frame[:44].min() > 250 and frame[52:].max() < 5, "left has become top"


def test_transparent_frames_are_laid_on_white(tmp_path):
    clear = [Image.new("RGBA", (40, 40), (0, 0, 0, 255 * number)) for number in (0, 1)]
    clear[0].save(tmp_path / "a.png", save_all=True, append_images=clear[1:], duration=500)
    colours = [open_image(frame).getpixel((3, 3)) for frame in load(tmp_path, "a.png").frames]
    assert colours == [(255, 255, 255), (0, 0, 0)]


def reason(folder, reference, **sampling) -> str:
    with pytest.raises(Refusal) as refused:
        load(folder, reference, **sampling)
    return refused.value.reason


def test_every_file_that_is_no_whole_video_is_refused_with_its_reason(folder, tmp_path):
    whole = {name: (folder / name).read_bytes() for name in ("clip.mp4", "clip.webm", "clip.gif")}
    (tmp_path / "text.mp4").write_bytes(b"no video " * 100)
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name, data in whole.items():
        (tmp_path / f"cut-{name}").write_bytes(data[: len(data) // 2])
    for name in ("text.mp4", "empty.mp4", "cut-clip.mp4", "cut-clip.gif"):
        assert reason(tmp_path, name) == "the video does not decode", name
    assert reason(tmp_path, "cut-clip.webm") == "the video ends early"
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    (tmp_path / "list.mp4").write_text(f"#EXTM3U\n#EXTINF:3,\n{folder / 'clip.mp4'}\n#EXT-X-ENDLIST\n")
    assert reason(tmp_path, "list.mp4") == "the video does not decode", "a playlist would lead out of the folder"
    assert reason(tmp_path, "sound.mp4") == "the file holds no video"
    Image.new("RGB", (6000, 20)).save(tmp_path / "wide.png")
    assert reason(tmp_path, "wide.png", max_pixels=784) == "the video's frames are too narrow"


def test_paths_of_videos_are_judged_as_those_of_pictures(folder, tmp_path):
    assert reason(folder, "../clip.mp4") == "the video's path leaves the image folder"
    assert reason(folder, "https://example.org/a.mp4") == "the video is behind a URL, which is not fetched"
    assert reason(folder, "none.mp4") == "the video's file is missing"
    assert reason(folder, ["stills/frame_1.png", "../x.png"]) == "the picture's path leaves the image folder"
    os.mkfifo(tmp_path / "pipe.mp4")
    assert reason(tmp_path, "pipe.mp4") == "the video's path is not a file"
    (tmp_path / "bare").mkdir()
    assert reason(tmp_path, "bare") == reason(tmp_path, []) == "the video has no frames"
    for neither in (None, 7, [7], {"path": "clip.mp4"}):
        assert reason(folder, neither) == "the video is given neither as a path nor as a list of frames"


def test_frames_of_unequal_size_are_refused(tmp_path, picture):
    for name, side in (("a.png", 28), ("b.png", 30)):
        (tmp_path / name).write_bytes(picture(side, 28))
    assert reason(tmp_path, ["a.png", "b.png"]) == "the frames of a video differ in size"


def test_without_pyav_a_video_file_is_an_error_that_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r"clip\.mp4 needs PyAV to be read: pip install 'mindvl\[video\]'"):
        load(folder, "clip.mp4")
    assert len(load(folder, "clip.gif").frames) == len(load(folder, "stills", max_frames=6).frames) == 6


@pytest.mark.parametrize("name", ["fps", "max_frames", "max_pixels"])
def test_numbers_that_are_not_above_0_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} of videos is 0; it must be above 0"):
        FrameSampling(**{name: 0})
