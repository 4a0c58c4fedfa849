"""Why a sample is left out, as one of few fixed texts, so that a million samples are a handful of lines of a report.

An error about a sample says what is wrong, a colon, and then the sample's own numbers and words; only the first part is
its reason. Where a message stands in its conversation is no part of it either:

    the picture does not decode: image file is truncated (3 bytes not processed)  ->  the picture does not decode
    message 4 is an empty answer                                                  ->  a message is an empty answer
"""

from __future__ import annotations

import re

_MESSAGE = re.compile(r"^message \d+")


def reason_of(error: Exception) -> str:
    """What is counted of an error about one sample."""
    return _MESSAGE.sub("a message", str(error).split(":")[0])[:120]
