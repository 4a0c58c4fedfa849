"""A Qwen2.5-VL user's JSON of videos and pictures: imported, indexed, planned, trained on and asked about."""

import argparse
import json

import av
import numpy as np
import pytest
import torch
from PIL import Image

from mindvl.data.importing import command
from mindvl.data.indexing import index_shard
from mindvl.data.module import PackedShards, Source
from mindvl.data.questions import load_questions
from mindvl.data.reader import read_samples
from mindvl.phases import Multitask
from mindvl.phases.answering import Answerer, Prompt
from mindvl.phases.decoding import Decoding

FRAMES = {"video_min_pixels": 784, "video_max_pixels": 6 * 784, "video_total_pixels": 40 * 784}
SHORT = Decoding(max_new_tokens=6)


@pytest.fixture(scope="module")
def shards(tmp_path_factory, picture):
    """Six records as Qwen2.5-VL's fine-tuning code reads them, in one shard: GIF, MP4, frames, pictures, text."""
    folder = tmp_path_factory.mktemp("qwen")
    noise = np.random.default_rng(0).integers(0, 256, (12, 60, 90, 3), dtype=np.uint8)
    frames = [Image.fromarray(pixels) for pixels in noise]
    frames[0].save(folder / "clip.gif", save_all=True, append_images=frames[1:8], duration=250)
    with av.open(str(folder / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=4)
        (stream.width, stream.height), stream.pix_fmt = frames[0].size, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())
    for number, frame in enumerate(frames[:3]):
        frame.save(folder / f"{number}.png")
    (folder / "a.jpg").write_bytes(picture(56, 84, format="JPEG"))

    def record(*said, **media):
        turns = [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(said)]
        return {"conversations": turns, **media}

    records = [
        record("<video>\nwhat moves?", "a cat", video="clip.gif"),
        record("<video>\nhow long?", "three seconds", video="clip.mp4"),
        record("<video>\nand now?", "less", video=["0.png", "1.png", "2.png"]),
        record(
            "<image>\nor <video>\nthis?<image>", "this", "<image> and?", "no", image=["a.jpg"] * 3, video="clip.gif"
        ),
        record("<image><image>\nsame?", "yes", image=["a.jpg", "a.jpg"]),
        record("no picture", "none"),
    ]
    (folder / "clips.json").write_text(json.dumps(records))
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert command.run(parser.parse_args([str(folder / "clips.json"), str(folder / "shards")])) == 0
    return folder / "shards"


@pytest.fixture
def phase(make_spec, make_model):
    phase = Multitask(make_spec(**FRAMES))
    phase.model = make_model(**FRAMES).train()
    return phase


def data_of(shards, **settings):
    source = {"clips": Source(str(shards / "*.tar"))}
    return PackedShards(source, validation=source, **{"sequence_length": 192, "workers": 0, **settings})


def test_the_import_says_what_is_shown_and_how_fast(shards, encoder):
    samples = list(read_samples(str(shards / "clips-000000.tar")))
    shown = [[1 if isinstance(visual, bytes) else len(visual) for visual in sample.images] for sample in samples]
    assert shown == [[4], [6], [3], [1, 4, 1, 1], [1, 1], []]
    speeds = [part.get("fps") for s in samples for m in s.messages for part in m["content"] if part["type"] == "video"]
    assert speeds == [2.0, 2.0, None, 2.0]
    index = index_shard(str(shards / "clips-000000.tar"), encoder)
    assert index.problem_counts() == {} and (index.num_images, index.num_videos) == (5, 4)


@pytest.mark.parametrize("workers", [0, 1])
def test_two_steps_move_every_weight_and_validation_sees_the_same_videos(workers, phase, shards, make_trainer):
    seen = []
    phase.on_train_batch_end = lambda outputs, batch, index: seen.append(batch)
    before = {name: tensor.detach().clone() for name, tensor in phase.model.named_parameters()}
    trainer = make_trainer(max_steps=2)
    trainer.fit(phase, data_of(shards, workers=workers, prefetch=2))
    assert trainer.global_step == 2 and 1176 in {batch.vision.patches.shape[1] for batch in seen}
    assert sum(len(batch.keys) for batch in seen) >= 4 and not any(batch.skipped for batch in seen)
    assert all(not torch.equal(tensor, before[name]) for name, tensor in phase.model.named_parameters())
    assert torch.isfinite(trainer.callback_metrics["validation/loss"])


def test_the_loss_of_each_planned_pack_is_that_of_its_samples_alone(phase, shards, make_trainer):
    data = data_of(shards)
    make_trainer(max_steps=1).fit(phase, data)
    phase.model.eval()
    dataset, checked = data.train_dataloader().dataset, 0
    epoch = data.plan.epoch(0)
    with torch.inference_mode():
        for number in range(len(epoch)):
            rows = epoch.pack(number).tolist()
            alone = sum(phase.model(packed=dataset[[row]]).loss for row in rows)
            torch.testing.assert_close(phase.model(packed=dataset[rows]).loss, alone, rtol=1e-5, atol=0)
            checked += len(rows)
    assert checked == 6


def test_answers_about_videos_do_not_depend_on_what_else_is_in_the_batch(phase, shards, tokenizer):
    answerer = Answerer(phase.model.eval(), tokenizer)
    prompts = []
    for sample in read_samples(str(shards / "clips-000000.tar")):
        kept = 2 if sample.key.endswith("4") else 0  # the picture of its second turn is left away
        prompts.append(Prompt(sample.messages[: 1 + kept], sample.images[: 3 + kept // 2]))
    together = answerer.answer(prompts, SHORT)
    assert together == [answerer.answer([prompt], SHORT)[0] for prompt in prompts]
    assert [answer.visual_tokens for answer in together] == [2 * 6, 3 * 6, 2 * 6, 6 + 2 * 6 + 6 + 6, 12, 0]


def test_a_prompt_whose_video_stands_for_a_picture_is_refused(phase, tokenizer, picture):
    answerer = Answerer(phase.model.eval(), tokenizer)
    messages = [{"role": "user", "content": [{"type": "image"}]}]
    with pytest.raises(ValueError, match="placeholder 0 is of type image, the sample has a video there"):
        answerer.answer([Prompt(messages, ((picture(28, 28),),))], SHORT)


def test_questions_about_videos_are_asked_with_the_video_first(tmp_path, write_tar, picture, phase, tokenizer):
    record = {"messages": [], "questions": [{"question": "what?", "answer": "x", "metric": "exact"}]}
    frames = [(f"a.0.{number:04d}.png", picture(56, 84, seed=number)) for number in range(3)]
    write_tar(tmp_path / "q-0.tar", [("a.json", json.dumps(record).encode()), *frames])
    (question,) = load_questions("q", tmp_path)
    assert [part["type"] for part in question.messages[0]["content"]] == ["video", "text"]
    (blank,) = question.blanked().images
    assert len(blank) == 3 and question.files == tuple(data for _, data in frames)
    answer = Answerer(phase.model.eval(), tokenizer).answer([Prompt(question.messages, question.images)], SHORT)
    assert answer[0].visual_tokens == 12
