"""Receipts and forms: a value is found by the word on its left."""

from mindvl.data.render.context import Ask, Context
from mindvl.data.render.document import Document
from mindvl.data.render.fonts import covers
from mindvl.data.render.page import draw_page
from mindvl.data.render.style import Range
from mindvl.data.render.words import claim_number, distinct_words, owned, word

KEYS = {
    "name": "姓名", "city": "城市", "date": "日期", "code": "代码", "size": "大小", "type": "类型", "unit": "单位",
    "room": "房号", "team": "小组", "rank": "等级", "road": "道路", "age": "年龄", "job": "工作", "zip": "番号",
    "order": "顺序", "phone": "电话", "color": "色彩", "month": "月份", "school": "学校", "station": "车站",
    "country": "国家", "address": "地址", "company": "公司", "teacher": "教师",
}  # fmt: skip
TOTALS = ("合计", "总计", "合計")  # the last is for fonts made for Japanese


def receipt(
    context: Context,
    *,
    items: Range = (3, 10),
    name_length_chars: Range = (3, 10),
    charset: str = "alnum",
    price: Range = (1, 99),
    cents: bool = True,
) -> Document:
    """Names and prices with their total in the last row. `price` is in whole units; `cents` adds two decimals."""
    count = context.between(items)
    units = (price[0] * 100, price[1] * 100) if cents else price
    what = f"prices from {price[0]} to {price[1]}"
    printed = [owned(context, lambda: _money(context.between(units), cents=cents), what=what) for _ in range(count)]
    total = claim_number(context, _money(sum(int(value.replace(".", "")) for value in printed), cents=cents))
    # Names come after the total: in a small split most totals are refused, and names are dear to draw again.
    names = distinct_words(context, count, charset=charset, length_chars=name_length_chars)
    word_total = next((t for t in TOTALS if context.chinese and covers(context.font, t)), "total")
    rows = [[name, value] for name, value in zip(names, printed, strict=True)]
    content = context.settle(" ".join(f"{name} {value}" for name, value in rows) + f" total {total}")
    asks = [Ask("total", total), Ask("item_count", str(len(names)))]
    asks += [Ask("price", value, fields=(("item", name),)) for name, value in rows]
    image, transcript = draw_page(context, [*rows, [word_total, total]], right_align=[False, True])
    return Document(image, context.ask(asks), transcript, content)


def key_value(
    context: Context,
    *,
    keys: Range = (3, 8),
    key_length_chars: Range = (3, 7),
    value_length_chars: Range = (2, 9),
    charset: str = "alnum",
    columns: Range = (1, 2),
) -> Document:
    """A form of `key: value` fields in one or two columns. The keys are real words, the values made up."""
    allowed = [key for key in KEYS if key_length_chars[0] <= len(key) <= key_length_chars[1]]
    count = context.between(keys)
    if count > len(allowed):
        raise ValueError(f"{count} keys are asked, but only {allowed} have {key_length_chars} characters")
    printed_keys = {key: KEYS[key] if context.chinese and covers(context.font, KEYS[key]) else key for key in allowed}
    chosen = context.sample(allowed, count)
    values = [word(context, charset=charset, length_chars=value_length_chars) for _ in chosen]
    content = context.settle(" ".join(f"{key}:{value}" for key, value in zip(chosen, values, strict=True)))
    asks = [
        Ask("key_value", value, fields=(("key", printed_keys[key]),)) for key, value in zip(chosen, values, strict=True)
    ]
    fields = [[f"{printed_keys[key]}:", value] for key, value in zip(chosen, values, strict=True)]
    width = context.between(columns)
    rows = [[text for field in fields[start : start + width] for text in field] for start in range(0, count, width)]
    image, transcript = draw_page(context, rows)
    return Document(image, context.ask(asks), transcript, content)


def _money(value: int, *, cents: bool) -> str:
    return f"{value // 100}.{value % 100:02d}" if cents else str(value)
