"""Pictures that foreign records point to: read from one folder, judged by their headers, never decoded.

The records are other people's text. A path in them is followed only under the image folder: with `/data/coco` for
a folder, `train/1.jpg` and `/data/coco/train/1.jpg` are read, and `../x.jpg`, `/etc/x.jpg` and `http://...` are not.
That is judged on the path as it is written; links that the owner of the folder has put into it are followed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindvl.data.images import image_size
from mindvl.data.importing.outcome import Refusal
from mindvl.data.shard_writer import picture_extension

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://|data:")


class PictureFolder:
    """Reads the pictures of one import. Raises ValueError when the folder is not there."""

    def __init__(self, folder: Path):
        if not folder.is_dir():
            raise ValueError(f"the image folder {folder} is not a folder")
        self._root = os.path.abspath(folder)  # noqa: PTH100 - Path.resolve would follow links, Path.absolute keeps ".."

    def load(self, reference: Any) -> bytes:
        """File bytes of a picture given as a path, as bytes, or as Hugging Face's `{"bytes": ..., "path": ...}`.

        Raises Refusal with the reason when there is no picture to be had.
        """
        if isinstance(reference, Mapping):
            data = reference.get("bytes")
            reference = data if data is not None else reference.get("path")
        data = _read(self.find(reference)) if isinstance(reference, str) else reference
        if not isinstance(data, bytes):
            raise Refusal("the picture is given neither as a path nor as bytes")
        check_picture(data)
        return data

    def find(self, reference: str, *, what: str = "picture") -> Path:
        """The file of a picture; of a video, perhaps a folder. Raises Refusal for what is not there or not ours."""
        if _URL.match(reference):
            raise Refusal(f"the {what} is behind a URL, which is not fetched")
        path = os.path.normpath(os.path.join(self._root, reference))  # noqa: PTH118 - lexical, as the module says
        if not path.startswith(self._root.rstrip(os.sep) + os.sep):
            raise Refusal(f"the {what}'s path leaves the image folder")
        try:
            file = Path(path)
            if not file.exists():
                raise Refusal(f"the {what}'s file is missing")
            if not file.is_file() and not (what == "video" and file.is_dir()):
                raise Refusal(f"the {what}'s path is not a file")  # a pipe would be waited for without end
            return file
        except (OSError, ValueError) as error:  # no permission; a NUL or a surrogate in the path
            raise Refusal(f"the {what}'s file cannot be read") from error


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise Refusal("the picture's file cannot be read") from error


def check_picture(data: bytes) -> None:
    """Raises Refusal unless the header is that of a picture which a shard may hold and training can open."""
    try:
        image_size(data)
    except ValueError as error:
        known = str(error).startswith("not a picture")
        raise Refusal("the file is not a picture" if known else "the picture has more pixels than the cap") from error
    try:
        picture_extension(data)
    except ValueError as error:
        raise Refusal("the picture is none of png, jpg, webp, gif, bmp, tif") from error
