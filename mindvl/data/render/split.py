"""Which split a text belongs to is a property of the text, not of the draw.

A made-up word is hashed (blake2b) to a number from 0 to 99: below 80 it may only be seen in training, below 88 only in
validation, else only in test. So `velo` is a training word for every family, source, seed and machine, and a model
that reads `velo` in training never meets it in test.

Two rules, both by the same hash:

- every *open* word (a made-up word, a name, a number of three or more digits) belongs to the split of its hash.
  Closed vocabularies cannot be divided and are exempt: colours, shapes, form keys, single letters, small numbers;
- a document's `content`, its whole ground truth as one string (`3+4=?`, `2 red circle, 1 blue star`), belongs to the
  split of its hash too, so that no test document repeats a training document even where every word is exempt.

A document that falls to another split is thrown away before anything is drawn (`WrongSplit`) and drawn again. The
price is that small worlds become smaller: of the 100 sums of two digits about 12 are left for the test split.
"""

import hashlib

PERCENT = {"train": 80, "validation": 8, "test": 12}
SPLITS = tuple(PERCENT)


class WrongSplit(Exception):
    """A drawn text belongs to another split than the document it was drawn for."""


def split_of(text: str) -> str:
    """A text and its capitalised twin live in the same split."""
    number = int.from_bytes(hashlib.blake2b(text.casefold().encode(), digest_size=4).digest(), "big") % 100
    if number < PERCENT["train"]:
        return "train"
    return "validation" if number < PERCENT["train"] + PERCENT["validation"] else "test"


def is_open(word: str) -> bool:
    """A word is open when there are enough of its kind to divide: two or more letters, three or more digits.

    A price counts by its digits: `4.50` is open, `45` is not.
    """
    if word.isalpha():
        return len(word) >= 2
    kept = "".join(char for char in word if char.isalnum())
    return len(kept) >= (3 if kept.isdigit() else 2)


def claim(text: str, *, split: str) -> str:
    """The text itself if it belongs to `split`; raises `WrongSplit` otherwise."""
    if split_of(text) != split:
        raise WrongSplit(text)
    return text
