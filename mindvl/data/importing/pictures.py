"""Pictures that foreign records point to: read from one folder, judged by their headers, never decoded.

The records are other people's text. A path in them is followed only under the image folder: with `/data/coco` for
a folder, `train/1.jpg` and `/data/coco/train/1.jpg` are read, and `../x.jpg`, `/etc/x.jpg` and `http://...` are not.
That is judged on the path as it is written; links that the owner of the folder has put into it are followed.
`file:///data/coco/train/1.jpg` is that path, and `data:image/jpeg;base64,...` the picture itself.
"""

from __future__ import annotations

import binascii
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from mindvl.data.images import image_size
from mindvl.data.importing.outcome import Refusal
from mindvl.data.shard_writer import picture_extension

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://|data:")
_SHOWN_CHARS = 300
_FILE_URL = re.compile(r"file://(localhost(?=/))?", re.IGNORECASE)


class PictureFolder:
    """Reads the pictures of one import. Raises ValueError when the folder is not there."""

    def __init__(self, folder: Path):
        if not folder.is_dir():
            raise ValueError(f"the image folder {folder} is not a folder")
        self._root = os.path.abspath(folder)  # noqa: PTH100 - Path.resolve would follow links, Path.absolute keeps ".."

    def load(self, reference: Any) -> bytes:
        """File bytes of a picture given as a path, as a `file:` or `data:` URL, or as bytes.

        Hugging Face's `{"bytes": ..., "path": ...}` is whichever of the two is there.

        Raises Refusal with the reason when there is no picture to be had.
        """
        if isinstance(reference, Mapping):
            data = reference.get("bytes")
            reference = data if data is not None else reference.get("path")
        if isinstance(reference, str):
            reference = _decoded(reference) if is_data_url(reference) else _read(self.find(reference))
        data = reference
        if not isinstance(data, bytes):
            raise Refusal("the picture is given neither as a path nor as bytes")
        check_picture(data)
        return data

    def find(self, reference: str, *, what: str = "picture") -> Path:
        """The file of a picture; of a video, perhaps a folder. Raises Refusal for what is not there or not ours."""
        if local := _FILE_URL.match(reference):
            written = reference[local.end() :]
            try:  # few programs that write such URLs escape what is in them
                return self.find(written, what=what)
            except Refusal:
                if "%" not in written:
                    raise
                return self.find(unquote(written), what=what)
        if _URL.match(reference):
            raise Refusal(f"the {what} is behind a URL, which is not fetched", reference[:_SHOWN_CHARS])
        path = os.path.normpath(os.path.join(self._root, reference))  # noqa: PTH118 - lexical, as the module says
        if not path.startswith(self._root.rstrip(os.sep) + os.sep):
            raise Refusal(
                f"the {what}'s path leaves the image folder", f"{path[:_SHOWN_CHARS]} is not under {self._root}"
            )
        try:
            file = Path(path)
            if not file.exists():
                raise Refusal(f"the {what}'s file is missing", path[:_SHOWN_CHARS])
            if not file.is_file() and not (what == "video" and file.is_dir()):
                raise Refusal(f"the {what}'s path is not a file", path[:_SHOWN_CHARS])  # a pipe would never end
            return file
        except (OSError, ValueError) as error:  # no permission; a NUL or a surrogate in the path
            raise Refusal(f"the {what}'s file cannot be read", path[:_SHOWN_CHARS]) from error


def is_data_url(reference: str) -> bool:
    """Whether a picture is written into the record itself, `data:image/png;base64,...`."""
    return reference[:5].lower() == "data:"


def _decoded(url: str) -> bytes:
    head, _, data = url.partition(",")
    try:
        if not head.lower().endswith(";base64"):
            raise ValueError("bytes that are escaped one by one are nobody's pictures")
        return binascii.a2b_base64(unquote(data), strict_mode=False)
    except ValueError as error:
        raise Refusal("the picture's data URL is not base64") from error


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
