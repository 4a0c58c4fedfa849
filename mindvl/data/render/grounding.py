"""Where is the red circle? The answer is a box in pixels of the picture as the model gets it.

A box is [x1,y1,x2,y2] with x2 and y2 one past the last pixel, and the shape touches all four sides. Absolute pixels
mean nothing without the picture's size, so each question opens with it: "size 140x112. where is the red circle?"
"""

from dataclasses import replace

from mindvl.data.render.context import Ask, Context
from mindvl.data.render.document import Document
from mindvl.data.render.shapes import COLORS, SHAPES, Thing, draw_thing, known_things, shape_paper
from mindvl.data.render.style import Range

Box = tuple[int, int, int, int]
PLACE_DRAWS = 50


def grounding(
    context: Context,
    *,
    objects: Range = (1, 5),
    object_pixels: Range = (40, 160),
    shapes: tuple[str, ...] = tuple(SHAPES),
    colors: tuple[str, ...] = tuple(COLORS),
) -> Document:
    """Different shapes that do not overlap, somewhere in the picture.

    The picture's size comes from `width_pixels` and `height_pixels`, on a grid in whole cells. Where there is no room
    for all objects, there are fewer.
    """
    style = context.style
    width, height = (_side(context, bounds) for bounds in (style.width_pixels, style.height_pixels))
    smallest = _snapped(object_pixels, style.box_snap_pixels)[0]
    if smallest > min(width, height):
        raise ValueError(f"an object of {smallest} pixels does not fit into a picture of {width}x{height}")
    things = context.sample(known_things(shapes, colors), context.between(objects))
    placed: dict[Box, Thing] = {}
    for thing in things:
        if (box := _free_box(context, list(placed), (width, height), object_pixels)) is not None:
            placed[box] = thing
    facts = [f"{thing.name(chinese=False)} {_written(box)}" for box, thing in placed.items()]
    content = context.settle(f"{width}x{height} " + ", ".join(sorted(facts)))
    size = ("size", f"{width}x{height}")
    asks = []
    for box, thing in placed.items():
        name = thing.name(chinese=context.chinese)
        asks.append(Ask("where", _written(box), "box_iou", (size, ("thing", name))))
        asks.append(Ask("what_at", name, fields=(size, ("box", _written(box)))))
    questions = context.ask(asks)
    picture = replace(context, paper=shape_paper(context)).blank((width, height))
    for (left, top, right, _), thing in placed.items():
        draw_thing(context, picture, thing, left=left, top=top, size_pixels=right - left)
    return Document(context.finish(picture), questions, None, content)


def _side(context: Context, bounds: Range) -> int:
    """A side of the picture; on a grid a whole number of cells."""
    cell = context.style.cell_pixels or 1
    low, high = -(-bounds[0] // cell), bounds[1] // cell
    if low > high or high < 1:
        raise ValueError(f"no multiple of {cell} pixels lies between {bounds[0]} and {bounds[1]}")
    return cell * context.between((low, high))


def _snapped(bounds: Range, snap: int) -> Range:
    """The smallest and largest multiple of `snap` within bounds."""
    low, high = -(-bounds[0] // snap) * snap, bounds[1] // snap * snap
    if low > high or high < 1:
        raise ValueError(f"no multiple of box_snap_pixels {snap} lies in object_pixels {list(bounds)}")
    return max(low, snap), high


def _free_box(context: Context, taken: list[Box], page: tuple[int, int], object_pixels: Range) -> Box | None:
    """A square box on the snap lattice that meets no other box, or None where there seems to be no room."""
    snap = context.style.box_snap_pixels
    low, high = _snapped(object_pixels, snap)
    high = min(high, min(page) // snap * snap)
    for _ in range(PLACE_DRAWS):
        side = snap * context.between((low // snap, high // snap))
        left, top = (snap * context.between((0, (room - side) // snap)) for room in page)
        if all(left >= x2 or left + side <= x1 or top >= y2 or top + side <= y1 for x1, y1, x2, y2 in taken):
            return left, top, left + side, top + side
    return None


def _written(box: Box) -> str:
    return "[" + ",".join(map(str, box)) + "]"
