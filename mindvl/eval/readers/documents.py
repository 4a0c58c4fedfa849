"""The files of DocVQA and InfoVQA as their server hands them out: one JSON of questions, and a folder of pictures.

    {"dataset_split": "val", "data": [
        {"questionId": 1, "question": "Who signed?", "image": "documents/x.png", "answers": ["J. Doe"]},       DocVQA
        {"questionId": 2, "question": "How many?", "image_local_name": "20471.jpeg", "answers": ["7"]}]}       InfoVQA

Pictures lie where the JSON says, from its own folder or the one above, or by their bare name in a folder beside it
whose name is known. The file of the test split has no answers; the server keeps them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mindvl.eval.readers.rows import Row, read_picture, row_error

IMAGE_KEYS = ("image", "image_local_name")
_FOLDERS = ("documents", "images", "spdocvqa_images", "infographicsvqa_images")


def read_documents(path: Path) -> Iterator[Row]:
    """Rows of such a file. Raises ValueError, naming file, row and key, for what cannot be read."""
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    records = whole.get("data") if isinstance(whole, dict) else whole
    if not isinstance(records, list):
        raise ValueError(f"{path} has no list 'data' of questions")
    split = whole.get("dataset_split") if isinstance(whole, dict) else None
    part = path.stem if split is None or str(split) in path.stem else f"{path.stem} {split}"
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict):
            raise row_error(path, number, "data", f"holds {type(record).__name__}, not a question")
        yield Row(record, (_picture(record, path, number),), path, number, part)


def _picture(record: dict[str, Any], path: Path, number: int) -> bytes:
    key = next((key for key in IMAGE_KEYS if isinstance(record.get(key), str)), None)
    if key is None:
        raise row_error(path, number, IMAGE_KEYS[0], f"is missing; the row has: {', '.join(record)}")
    named, folders = record[key], [path.parent, path.parent.parent]
    if any((folder / named).is_file() for folder in folders):
        return read_picture(named, folders, path, number, key)
    beside = [folder / name for folder in folders for name in _FOLDERS]
    return read_picture(Path(named).name, beside, path, number, key)
