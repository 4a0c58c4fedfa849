"""The shards that the loader benchmarks read: 800 conversations in 8 ordinary WebDataset tars, made once and kept.

Half of them have a photograph (JPEG of quality 90, sides of 300 to 1000 pixels), a tenth two or three of them, a fifth
a drawn document (PNG) and a fifth no picture; answers are log-normal with a median of 40 words. With the usual pixel
budget a picture has 558 visual tokens on average, a conversation 1269 tokens, and a pack of 4096 tokens holds three.
Photographs are crops of those that scikit-image brings, or smooth random colours where it is missing, both with a
camera's grain. All numbers here were chosen by us.

    build/bench/loader-corpus/shards/000000.tar      photo-00000.json photo-00000.0.jpg text-00001.json ...
                              tokenizer/             the byte tokenizer, with a chat template that masks can be read off
                              corpus.json            written last: what made it
"""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CORPUS = Path(__file__).parents[2] / "build" / "bench" / "loader-corpus"
RECIPE = {"version": 2, "samples": 800, "shards": 8, "seed": 0, "photo_sides_pixels": [300, 1000]}
KINDS = {"photo": 0.5, "photos": 0.1, "document": 0.2, "text": 0.2}
MEDIAN_ANSWER_WORDS, ANSWER_SIGMA, MAX_ANSWER_WORDS = 40, 0.9, 300
DOCUMENTS = ("ocr_paragraph", "receipt", "table", "chart_line", "key_value")
VOCABULARY = (
    "the a of in on and with over under near behind between two three many few small large old new red green blue "
    "bright dark man woman child dog cat bird tree river road house window table chair bottle street market train "
    "stands sits walks holds shows looks seems lies there is are it this picture light water sky stone paper"
)


def loader_corpus(folder: Path = CORPUS, **changes: Any) -> Path:
    """The folder of the corpus, made first where it is missing or was made by another recipe."""
    recipe = RECIPE | changes | {"photographs": len(_photographs())}
    done = folder / "corpus.json"
    if done.exists() and json.loads(done.read_text()) == recipe:
        return folder
    from webdataset import TarWriter

    from mindvl.data.tokenizer import byte_tokenizer

    shutil.rmtree(folder, ignore_errors=True)
    shards = folder / "shards"
    shards.mkdir(parents=True)
    byte_tokenizer().save_pretrained(str(folder / "tokenizer"))
    random = np.random.default_rng(recipe["seed"])
    kinds = random.choice(list(KINDS), size=recipe["samples"], p=list(KINDS.values()))
    for shard, numbers in enumerate(np.array_split(np.arange(recipe["samples"]), recipe["shards"])):
        with (shards / f"{shard:06d}.tar").open("wb") as stream, TarWriter(stream, encoder=False, mtime=0) as writer:
            for number in numbers.tolist():
                writer.write(_sample(str(kinds[number]), number, random, recipe["photo_sides_pixels"]))
    done.write_text(json.dumps(recipe))
    return folder


def _sample(
    kind: str, number: int, random: np.random.Generator, photo_sides_pixels: list[int]
) -> dict[str, str | bytes]:
    sample: dict[str, str | bytes] = {"__key__": f"{kind}-{number:05d}"}
    if kind == "document":
        messages, picture = _document(number, random)
        sample["0.png"] = _encoded(picture, "PNG", compress_level=6)
    else:
        count = {"text": 0, "photo": 1, "photos": int(random.integers(2, 4))}[kind]
        messages = _conversation(count, random)
        for index in range(count):
            sample[f"{index}.jpg"] = _encoded(_photograph(random, photo_sides_pixels), "JPEG", quality=90)
    return sample | {"json": json.dumps({"messages": messages}).encode()}


def _conversation(num_images: int, random: np.random.Generator) -> list[dict]:
    """One to four turns, the pictures at the head of the first question."""
    messages = []
    for turn in range(int(random.integers(1, 5))):
        pictures = [{"type": "image"}] * (num_images if turn == 0 else 0)
        question = {"type": "text", "text": _sentence(int(random.integers(4, 20)), random) + "?"}
        words = float(np.clip(random.lognormal(np.log(MEDIAN_ANSWER_WORDS), ANSWER_SIGMA), 1, MAX_ANSWER_WORDS))
        answer = {"type": "text", "text": _sentence(round(words), random) + "."}
        messages.append({"role": "user", "content": [*pictures, question]})
        messages.append({"role": "assistant", "content": [answer]})
    return messages


def _sentence(num_words: int, random: np.random.Generator) -> str:
    return " ".join(random.choice(VOCABULARY.split(), size=num_words))


def _document(number: int, random: np.random.Generator) -> tuple[list[dict], Image.Image]:
    from mindvl.data.render.config import check_config
    from mindvl.data.render.sample import draw_document

    family = DOCUMENTS[int(random.integers(len(DOCUMENTS)))]
    look = {"width_pixels": [400, 1000], "height_pixels": [400, 1000], "noise_levels": 1.0}
    plan = check_config({"sources": {family: {"family": family, "train": 1, **look}}})
    document = draw_document(plan.sources[family], seed=RECIPE["seed"], split="train", index=number)
    assert document.image is not None, f"{family} drew no picture"
    return document.messages(), document.image


def _photographs() -> list[Path]:
    from mindvl.data.render.paper import photo_paths

    return photo_paths()


def _photograph(random: np.random.Generator, sides_pixels: list[int]) -> Image.Image:
    """A crop of a photograph, enlarged or shrunk to a random size, with grain: a plain enlargement has no detail."""
    from mindvl.data.render.paper import photo

    paths = _photographs()
    if paths:
        picture = photo(paths[int(random.integers(len(paths)))])
    else:
        picture = Image.fromarray(random.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    width, height = (int(side) for side in random.integers(*sides_pixels, size=2, endpoint=True))
    scale = min(picture.width / width, picture.height / height) * random.uniform(0.6, 1)
    left = random.uniform(0, picture.width - width * scale)
    top = random.uniform(0, picture.height - height * scale)
    box = (left, top, left + width * scale, top + height * scale)
    crop = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC, box=box)).astype(np.float32)
    grain = random.standard_normal((height, width, 1), dtype=np.float32) * random.uniform(2, 6)
    return Image.fromarray((crop + grain).clip(0, 255).astype(np.uint8))


def _encoded(picture: Image.Image, kind: str, **settings: int) -> bytes:
    with io.BytesIO() as stream:
        picture.save(stream, kind, **settings)
        return stream.getvalue()
