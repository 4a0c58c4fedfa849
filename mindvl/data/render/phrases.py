"""How questions are put: each kind in a few English and Chinese phrasings.

English ones are short lower-case sentences, because the tokenizer of a tiny model reads character by character and
each character of a question costs a token.
"""

PHRASES: dict[str, dict[str, tuple[str, ...]]] = {
    # text
    "read_text": {
        "en": ("read the text.", "what is written?", "what does it say?"),
        "zh": ("请读出文字。", "图中写了什么？"),
    },
    "first_word": {
        "en": ("first word?", "what is the first word?", "read the first word."),
        "zh": ("第一个词是什么？", "请读出第一个词。"),
    },
    "last_word": {
        "en": ("last word?", "what is the last word?", "read the last word."),
        "zh": ("最后一个词是什么？", "请读出最后一个词。"),
    },
    "read_line": {
        "en": ("read line {number}.", "what is on line {number}?", "line {number}?"),
        "zh": ("请读出第{number}行。", "第{number}行是什么？"),
    },
    # forms
    "total": {
        "en": ("what is the total?", "total?", "how much in total?"),
        "zh": ("总价是多少？", "一共多少钱？"),
    },
    "price": {
        "en": ("price of {item}?", "how much is {item}?", "what does {item} cost?"),
        "zh": ("{item}的价格是多少？", "{item}多少钱？"),
    },
    "item_count": {
        "en": ("how many items?", "number of items?", "count the items."),
        "zh": ("有几种商品？", "商品有多少种？"),
    },
    "key_value": {
        "en": ("what is the {key}?", "{key}?", "read the {key}."),
        "zh": ("{key}是什么？", "请读出{key}。"),
    },
    "cell": {
        "en": ("what is {column} of {row}?", "{column} of {row}?", "value of {row} in {column}?"),
        "zh": ("{row}的{column}是多少？", "{row}行{column}列是什么？"),
    },
    "row_with": {
        "en": ("which row has {value}?", "what row has {value}?", "{value} is in which row?"),
        "zh": ("哪一行有{value}？", "{value}在哪一行？"),
    },
    # charts
    "chart_value": {
        "en": ("value of {label}?", "what is {label}?", "what value has {label}?"),
        "zh": ("{label}的值是多少？", "{label}是多少？"),
    },
    "highest": {
        "en": ("which is highest?", "what label is highest?", "which has the top value?"),
        "zh": ("哪个最高？", "最高的是哪个？"),
    },
    "lowest": {
        "en": ("which is lowest?", "what label is lowest?", "which has the least value?"),
        "zh": ("哪个最低？", "最低的是哪个？"),
    },
    "largest": {
        "en": ("which is largest?", "what is the largest part?", "largest?"),
        "zh": ("哪个最大？", "最大的部分是哪个？"),
    },
    "smallest": {
        "en": ("which is smallest?", "what is the smallest part?", "smallest?"),
        "zh": ("哪个最小？", "最小的部分是哪个？"),
    },
    # shapes
    "describe": {
        "en": ("describe the picture.", "what is in the picture?", "what do you see?"),
        "zh": ("请描述图片。", "图中有什么？"),
    },
    "color_of": {
        "en": ("what color is the {shape}?", "color of the {shape}?", "which color has the {shape}?"),
        "zh": ("{shape}是什么颜色？", "{shape}的颜色是什么？"),
    },
    "shape_of": {
        "en": ("what shape is {color}?", "which shape is {color}?", "shape of the {color} one?"),
        "zh": ("什么形状是{color}的？", "{color}的是什么形状？"),
    },
    "left": {
        "en": ("what is on the left?", "left?", "what is at the left?"),
        "zh": ("左边是什么？", "最左边有什么？"),
    },
    "right": {
        "en": ("what is on the right?", "right?", "what is at the right?"),
        "zh": ("右边是什么？", "最右边有什么？"),
    },
    "top": {
        "en": ("what is at the top?", "top?", "what is on top?"),
        "zh": ("上面是什么？", "最上面有什么？"),
    },
    "bottom": {
        "en": ("what is at the bottom?", "bottom?", "what is lowest down?"),
        "zh": ("下面是什么？", "最下面有什么？"),
    },
    "count": {
        "en": ("how many {things}?", "number of {things}?", "count the {things}."),
        "zh": ("有几个{things}？", "{things}有多少个？"),
    },
    "where": {
        "en": ("size {size}. where is the {thing}?", "size {size}. find the {thing}.", "size {size}. {thing}?"),
        "zh": ("图片大小{size}。{thing}在哪里？", "图片大小{size}。请框出{thing}。"),
    },
    "what_at": {
        "en": ("size {size}. what is at {box}?", "size {size}. what is in {box}?", "size {size}. name {box}."),
        "zh": ("图片大小{size}。{box}是什么？", "图片大小{size}。{box}里有什么？"),
    },
    # sums
    "solve": {
        "en": ("what is the answer?", "solve it.", "what is the result?"),
        "zh": ("答案是多少？", "请计算结果。"),
    },
    "read_formula": {
        "en": ("read the formula.", "which formula is it?", "copy the formula."),
        "zh": ("请读出算式。", "算式是什么？"),
    },
    "area": {
        "en": ("what is the area?", "area?", "area of the rectangle?"),
        "zh": ("面积是多少？", "矩形的面积是多少？"),
    },
    "perimeter": {
        "en": ("what is the perimeter?", "perimeter?", "how long is the outline?"),
        "zh": ("周长是多少？", "矩形的周长是多少？"),
    },
}
