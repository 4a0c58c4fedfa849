"""Made-up words can be read but not remembered: a model that prints `velo` has seen the letters, not a dictionary.

Words are syllables over the letters of a charset (`ba`, `velo`, `tamir`), or strings of digits where the charset has
only digits; with `spelling: random` they are any characters in any order, which nothing helps to guess. Each drawn
word belongs to the document's split (see `split`).
"""

import string
from collections.abc import Callable
from functools import cache
from pathlib import Path

from mindvl.data.render.chinese import COMMON_WORDS
from mindvl.data.render.context import Context
from mindvl.data.render.fonts import covers, require
from mindvl.data.render.split import is_open, split_of
from mindvl.data.render.style import Range

CHARSETS = {
    "digits": string.digits,
    "lower": string.ascii_lowercase,
    "alnum": string.ascii_letters + string.digits,
}
VOWELS = "aeiou"
MAX_DRAWS = 10_000


def charset_chars(charset: str) -> str:
    """The characters of a named charset, or of one that is spelled out."""
    chars = CHARSETS.get(charset, charset)
    if not chars or " " in chars:
        raise ValueError(f"charset {charset!r} is neither one of {', '.join(CHARSETS)} nor a string of characters")
    return chars


@cache
def _pools(charset: str) -> tuple[str, str, str, str, bool]:
    """Vowels, consonants, digits, other characters of a charset, and whether it also has capitals."""
    chars = charset_chars(charset)
    letters = sorted({char.lower() for char in chars if char in string.ascii_letters})
    lowered = all(char in chars for char in letters)
    capitals = lowered and all(char.upper() in chars for char in letters)
    if letters and not lowered:  # capitals only: spell with them
        letters = [char.upper() for char in letters]
    vowels = "".join(char for char in letters if char.lower() in VOWELS)
    consonants = "".join(char for char in letters if char.lower() not in VOWELS)
    digits = "".join(char for char in chars if char in string.digits)
    others = "".join(sorted(set(chars) - set(string.ascii_letters) - set(string.digits)))
    return vowels, consonants, digits, others, capitals


def _spell(context: Context, charset: str, length_chars: int) -> str:
    if context.style.spelling == "random":
        chars = charset_chars(charset)
        return "".join(chars[index] for index in context.rng.integers(0, len(chars), length_chars))
    vowels, consonants, digits, others, capitals = _pools(charset)
    dice = context.rng.integers(0, 1 << 30, length_chars + 3).tolist()
    letters = vowels or consonants
    if others and (not (letters or digits) or dice[-1] % 8 == 0):
        pools = [others + digits + vowels + consonants]
    elif digits and (not letters or dice[-1] % 4 == 0):
        pools = [digits]
    else:
        pools = [consonants or vowels, vowels or consonants]
        if dice[-2] % 4 == 0:
            pools.reverse()
    word = "".join(pools[i % len(pools)][dice[i] % len(pools[i % len(pools)])] for i in range(length_chars))
    if capitals and dice[-3] % 3 == 0:
        word = word.capitalize()
    return word


def owned(context: Context, draw: Callable[[], str], *, what: str) -> str:
    """A text of the document's split; texts that are too few to divide (see `is_open`) are exempt."""
    for _ in range(MAX_DRAWS):
        text = draw()
        if not is_open(text) or split_of(text) == context.split:
            return text
    raise ValueError(f"none of {MAX_DRAWS} draws of {what} falls to the {context.split} split: allow more of them")


def made_up(context: Context, *, charset: str, length_chars: Range) -> str:
    """A made-up word of the document's split."""
    what = f"words of {length_chars[0]} to {length_chars[1]} characters from charset {charset!r}"
    word = owned(context, lambda: _spell(context, charset, context.between(length_chars)), what=what)
    return require(context.font, word)


@cache
def _chinese_words(font: Path, split: str) -> tuple[str, ...]:
    words = tuple(word for word in COMMON_WORDS.split() if split_of(word) == split and covers(font, word))
    if len(words) < 3:
        raise ValueError(f"font {font.name} covers {len(words)} Chinese words of the {split} split; 3 are needed")
    return words


def word(context: Context, *, charset: str, length_chars: Range) -> str:
    """A made-up word, or in a Chinese document more often a common Chinese one."""
    if context.chinese and length_chars[1] >= 2 and context.chance(0.7):
        return context.pick(_chinese_words(context.font, context.split))
    return made_up(context, charset=charset, length_chars=length_chars)


def distinct_words(context: Context, count: int, *, charset: str, length_chars: Range) -> list[str]:
    """Different words, for labels and names that a question must tell apart."""
    words: list[str] = []
    for _ in range(MAX_DRAWS):
        drawn = word(context, charset=charset, length_chars=length_chars)
        if drawn not in words:
            words.append(drawn)
        if len(words) == count:
            return words
    raise ValueError(
        f"{count} different words are asked but only {len(words)} of {length_chars[0]} to {length_chars[1]} characters "
        f"from charset {charset!r} exist in the {context.split} split"
    )


def number(context: Context, bounds: Range) -> int:
    """A whole number; one with three or more digits is an open word like any other."""
    what = f"numbers from {bounds[0]} to {bounds[1]}"
    return int(owned(context, lambda: str(context.between(bounds)), what=what))


def distinct_numbers(context: Context, count: int, bounds: Range) -> list[int]:
    """Different numbers, so that one of them is the highest."""
    numbers: list[int] = []
    for _ in range(MAX_DRAWS):
        drawn = number(context, bounds)
        if drawn not in numbers:
            numbers.append(drawn)
        if len(numbers) == count:
            return numbers
    raise ValueError(
        f"{count} different numbers are asked but only {len(numbers)} from {bounds[0]} to {bounds[1]} "
        f"exist in the {context.split} split"
    )


def claim_number(context: Context, text: str) -> str:
    """A number that follows from others (a total, a product) must belong to the split as well."""
    return context.settle(text) if is_open(text) else text
