"""A harness's request becomes ours without loss; settings are followed or refused."""

import io

import numpy as np
import pytest
from PIL import Image

from mindvl.data.images import open_image
from mindvl.data.importing.videos import FrameSampling
from mindvl.harness.requests import DEFAULT_MAX_NEW_TOKENS, decoding_of, picture_file, prompt_of
from mindvl.phases.decoding import Decoding

SAMPLING = FrameSampling()


@pytest.fixture(scope="module")
def noise(picture):
    return open_image(picture(30, 44, seed=3))


def saved(image: Image.Image, format: str, **options) -> bytes:
    with io.BytesIO() as stream:
        image.save(stream, format, **options)
        return stream.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_a_decoded_picture_is_seen_as_its_file_would_be(mode, noise):
    image = noise.convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(noise.convert("L"))
    expected = open_image(saved(image, "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"))
    assert np.array_equal(open_image(picture_file(image)), expected)


def test_a_decoded_photograph_that_lies_on_its_side_is_put_upright(noise):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = saved(noise, "JPEG", exif=exif)
    with Image.open(io.BytesIO(file)) as image:
        assert np.array_equal(open_image(picture_file(image)), open_image(file))
    assert open_image(file).size == noise.size[::-1]


def test_files_are_passed_on_byte_for_byte(picture, tmp_path):
    data = picture(28, 28)
    path = tmp_path / "a.png"
    path.write_bytes(data)
    for given in (data, str(path), path, {"bytes": data, "path": "a.png"}, {"bytes": None, "path": str(path)}):
        assert picture_file(given) == data


def test_what_is_no_picture_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"picture .*missing.png cannot be read"):
        picture_file(str(tmp_path / "missing.png"))
    with pytest.raises(ValueError, match="a picture is a int"):
        picture_file(3)


def test_messages_keep_their_order_of_texts_pictures_and_videos(noise, picture, tmp_path):
    noise.save(
        tmp_path / "clip.gif",
        save_all=True,
        append_images=[Image.new("RGB", noise.size, (9 * n, 0, 0)) for n in range(5)],
    )
    messages = [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "first"},
                {"type": "image", "url": noise},
                {"type": "video", "url": str(tmp_path / "clip.gif"), "start_time": None},
                {"type": "text", "text": "then?"},
                {"type": "video", "url": [noise, noise]},
            ],
        },
    ]
    prompt = prompt_of(messages, SAMPLING)
    assert prompt.messages == [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "first"},
                {"type": "image"},
                {"type": "video"},
                {"type": "text", "text": "then?"},
                {"type": "video"},
            ],
        },
    ]
    image, clip, frames = prompt.images
    assert image == picture_file(noise) and frames == (image, image) and len(clip) == 4


def test_audio_and_cut_videos_are_refused(tmp_path):
    def user(part):
        return [{"role": "user", "content": [part]}]

    with pytest.raises(NotImplementedError, match="does not hear"):
        prompt_of(user({"type": "audio", "url": "a.wav"}), SAMPLING)
    with pytest.raises(ValueError, match="part of a longer one"):
        prompt_of(user({"type": "video", "url": "a.mp4", "start_time": 1.0}), SAMPLING)
    with pytest.raises(ValueError, match=r"the video's file is missing .*a\.mp4"):
        prompt_of(user({"type": "video", "url": str(tmp_path / "a.mp4")}), SAMPLING)


@pytest.mark.parametrize(
    ("asked", "chosen", "expected"),
    [
        ({}, {}, Decoding(max_new_tokens=DEFAULT_MAX_NEW_TOKENS)),
        ({"max_new_tokens": 16, "temperature": 0, "top_p": 1.0, "num_beams": 1}, {}, Decoding(max_new_tokens=16)),
        ({"max_new_tokens": 16, "do_sample": False, "temperature": 0.2, "top_p": 0.5}, {}, Decoding(max_new_tokens=16)),
        ({"max_new_tokens": 9, "temperature": 0.7, "top_p": None}, {}, Decoding(max_new_tokens=9, temperature=0.7)),
        ({"max_new_tokens": 9, "do_sample": True, "top_k": 5}, {}, Decoding(9, temperature=1.0, top_k=5)),
        (
            {"max_new_tokens": 9, "do_sample": False},
            {"temperature": 0.5, "seed": 3},
            Decoding(9, temperature=0.5, seed=3),
        ),
        ({"max_new_tokens": 9, "temperature": 0.9}, {"temperature": 0.0, "max_new_tokens": 7}, Decoding(7)),
        ({"max_new_tokens": 9, "until": ["\n\n"]}, {}, Decoding(9)),
        ({"max_new_tokens": 9, "until": ["\n\n", "Q:", ""]}, {"top_p": None}, Decoding(9, stop=("Q:",))),
        ({"max_new_tokens": 9, "until": "Q:"}, {}, Decoding(9, stop=("Q:",))),
        ({"max_new_tokens": 9, "until": None}, {}, Decoding(9)),
    ],
)
def test_generation_settings_mean_what_they_say(asked, chosen, expected):
    assert decoding_of(asked, chosen) == expected


@pytest.mark.parametrize("setting", [{"num_beams": 5}, {"repetition_penalty": 1.2}, {"no_repeat_ngram_size": 3}])
def test_settings_that_would_change_the_text_otherwise_are_refused(setting):
    ((name, value),) = setting.items()
    with pytest.raises(ValueError, match=f"the task asks for {name}={value}, .*--gen_kwargs {name}="):
        decoding_of(setting, {})


def test_bounds_that_the_user_puts_on_drawing_are_refused_where_nothing_is_drawn():
    with pytest.raises(ValueError, match="temperature 0 draws nothing"):
        decoding_of({}, {"top_p": 0.9})
