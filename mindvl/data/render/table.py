"""Tables: a cell is found by two words at once, its row's and its column's."""

from mindvl.data.render.context import Ask, Context
from mindvl.data.render.document import Document
from mindvl.data.render.page import draw_page
from mindvl.data.render.style import Range
from mindvl.data.render.words import distinct_words, number, word


def table(
    context: Context,
    *,
    rows: Range = (3, 7),
    columns: Range = (2, 5),
    label_length_chars: Range = (3, 8),
    cell_length_chars: Range = (2, 6),
    charset: str = "alnum",
    number_ratio: float = 0.5,
) -> Document:
    """A header of column names over labelled rows; the corner is empty.

    Names and labels are all different. A cell holds a number with probability `number_ratio`, else a word.
    """
    num_rows, num_columns = context.between(rows), context.between(columns)
    labels = distinct_words(context, num_rows + num_columns, charset=charset, length_chars=label_length_chars)
    names, labels = labels[:num_columns], labels[num_columns:]
    body = [[_cell(context, cell_length_chars, charset, number_ratio) for _ in names] for _ in labels]
    grid = [["", *names], *([label, *cells] for label, cells in zip(labels, body, strict=True))]
    content = context.settle(" | ".join(" ".join(row) for row in grid))
    asks = [
        Ask("cell", value, fields=(("row", label), ("column", name)))
        for label, cells in zip(labels, body, strict=True)
        for name, value in zip(names, cells, strict=True)
    ]
    holders: dict[str, list[str]] = {}
    for label, cells in zip(labels, body, strict=True):
        for value in cells:
            holders.setdefault(value, []).append(label)
    asks += [
        Ask("row_with", where[0], fields=(("value", value),)) for value, where in holders.items() if len(where) == 1
    ]
    image, transcript = draw_page(context, grid, rules=context.chance(0.5))
    return Document(image, context.ask(asks), transcript, content)


def _cell(context: Context, length_chars: Range, charset: str, number_ratio: float) -> str:
    if context.chance(number_ratio):
        digits = context.between((max(length_chars[0], 1), min(length_chars[1], 4)))
        return str(number(context, (10 ** (digits - 1) if digits > 1 else 0, 10**digits - 1)))
    return word(context, charset=charset, length_chars=length_chars)
