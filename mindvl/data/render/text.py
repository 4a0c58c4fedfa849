"""Lines and paragraphs of made-up words: the plainest test of reading."""

from mindvl.data.render.context import Ask, Context
from mindvl.data.render.document import Document
from mindvl.data.render.page import draw_page
from mindvl.data.render.style import Range
from mindvl.data.render.words import word


def ocr_line(
    context: Context, *, charset: str = "alnum", word_length_chars: Range = (2, 9), line_words: Range = (1, 5)
) -> Document:
    """One line of words; the answer is the text itself.

    charset: "digits", "lower", "alnum" or the characters spelled out.
    """
    words = _words(context, charset, word_length_chars, line_words)
    text = context.settle(" ".join(words))
    asks = [Ask("read_text", text)]
    if len(words) >= 2:
        asks += [Ask("first_word", words[0]), Ask("last_word", words[-1])]
    image, transcript = draw_page(context, [[text]])
    return Document(image, context.ask(asks), transcript, text)


def ocr_paragraph(
    context: Context,
    *,
    charset: str = "alnum",
    word_length_chars: Range = (2, 9),
    line_words: Range = (3, 7),
    lines: Range = (3, 8),
) -> Document:
    """Several lines of words; the answer joins them with a space, or is one of them."""
    rows = [" ".join(_words(context, charset, word_length_chars, line_words)) for _ in range(context.between(lines))]
    text = context.settle(" ".join(rows))
    asks = [Ask("read_text", text)]
    asks += [Ask("read_line", row, fields=(("number", index),)) for index, row in enumerate(rows, 1)]
    image, transcript = draw_page(context, [[row] for row in rows])
    return Document(image, context.ask(asks), transcript, text)


def _words(context: Context, charset: str, length_chars: Range, count: Range) -> list[str]:
    return [word(context, charset=charset, length_chars=length_chars) for _ in range(context.between(count))]
