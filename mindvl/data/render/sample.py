"""A sample is a function of (seed, source, split, index) and of nothing else.

So any number of workers in any order writes the same bytes, and a shard can be drawn again by itself.
"""

import hashlib
import io
import json

import numpy as np
from PIL import Image

from mindvl.data.render.config import Source
from mindvl.data.render.context import open_context
from mindvl.data.render.document import Document
from mindvl.data.render.families import FAMILIES
from mindvl.data.render.split import SPLITS, WrongSplit

MAX_DRAWS = 20_000


def draw_document(source: Source, *, seed: int, split: str, index: int) -> Document:
    """The document at one index of a split; drawn again until its text belongs to the split."""
    name_number = int.from_bytes(hashlib.blake2b(source.name.encode(), digest_size=8).digest(), "big")
    rng = np.random.default_rng([seed, name_number, SPLITS.index(split), index])
    context = open_context(rng, source.style, split=split, text_only=source.text_only)
    for _ in range(MAX_DRAWS):
        try:
            return FAMILIES[source.family](context, **source.settings)
        except WrongSplit:
            continue
        except ValueError as error:
            raise ValueError(f"source {source.name}: {error}") from error
    raise ValueError(
        f"source {source.name}: none of {MAX_DRAWS} documents belongs to the {split} split; "
        f"widen the settings or set {split}: 0"
    )


def encode_image(image: Image.Image, image_format: str) -> bytes:
    """File bytes of a picture. PNG level 1: small flat pictures gain little from more, and time is the budget."""
    with io.BytesIO() as stream:
        if image_format == "png":
            image.save(stream, "PNG", compress_level=1)
        else:
            image.save(stream, "JPEG", quality=90)
        return stream.getvalue()


def encode_sample(
    document: Document, source: Source, *, split: str, index: int, image_format: str
) -> dict[str, str | bytes]:
    """A WebDataset sample: `json` with the chat and the ground truth, and the picture as `0.png` if there is one."""
    record = {
        "messages": document.messages(),
        "source": source.name,
        "task": source.family,
        "split": split,
        "questions": [
            {"turn": turn, "metric": asked.metric, "answer": asked.answer, "question": asked.question}
            for turn, asked in enumerate(document.questions)
        ],
        "transcript": document.transcript,
        "content": document.content,
        "image_sizes": [[document.image.height, document.image.width]] if document.image else [],
    }
    sample: dict[str, str | bytes] = {
        "__key__": f"{source.name}-{split}-{index:06d}",
        "json": json.dumps(record, ensure_ascii=False).encode(),
    }
    if document.image:
        sample[f"0.{image_format}"] = encode_image(document.image, image_format)
    return sample
