"""Programs to plant bugs in, and the bugs: what ``rl.repo_tasks`` makes repositories of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Bug:
    """One way to break a program: ``right``, which is in it once, becomes ``wrong``. ``report`` says what one sees."""

    right: str
    wrong: str
    report: str


@dataclass(frozen=True, kw_only=True)
class Program:
    """A module and how it is used. Words between ``<`` and ``>`` are chosen anew for every task."""

    words: Mapping[str, Sequence[str]]
    source: str
    bugs: tuple[Bug, ...]
    calls: tuple[str, ...]
    """Expressions that hidden tests compare with what they come to in the right program."""
    user: str
    """A second module, which imports from the first."""
    purpose: str


_NUMBERS = tuple(map(str, range(3, 40)))

PROGRAMS = (
    Program(
        purpose="Prices of orders, with a discount for large ones.",
        words={
            "package": ("shop", "orders", "store", "market"),
            "module": ("pricing", "prices", "costs"),
            "f": ("order_total", "total_price", "amount_due", "final_price"),
            "g": ("discount", "rebate", "reduction"),
            "least": ("100", "150", "200", "250", "300"),
            "percent": ("5", "10", "15", "20", "25"),
        },
        source='''LEAST = <least>
"""Sums from here on get the <g>."""
PERCENT = <percent>


def <g>(amount):
    """What is taken off an amount."""
    if amount >= LEAST:
        return amount * PERCENT // 100
    return 0


def <f>(lines):
    """The price of (price, count) lines, less the <g>."""
    amount = sum(price * count for price, count in lines)
    return amount - <g>(amount)
''',
        bugs=(
            Bug(
                "amount >= LEAST",
                "amount > LEAST",
                "An order of exactly <least> does not get the <g> of <percent> %; it should, from <least> on.",
            ),
            Bug(
                "amount - <g>(amount)",
                "amount + <g>(amount)",
                "Orders above <least> become <percent> % more expensive instead of cheaper.",
            ),
            Bug(
                "price * count for",
                "price for",
                "<f> ignores how many of a thing were ordered. (Discounts: <percent> % from <least>.)",
            ),
        ),
        calls=(
            "<f>([])",
            "<f>([(7, 1), (5, 2)])",
            "<f>([(<least>, 1)])",
            "<f>([(<least>, 3), (20, 2)])",
            "<g>(<least>)",
            "<g>(<least> - 1)",
        ),
        user='''from <package>.<module> import <f>


def receipt(lines):
    """One line of text per order line, and the total."""
    texts = [f"{count} x {price}" for price, count in lines]
    return [*texts, f"total {<f>(lines)}"]
''',
    ),
    Program(
        purpose="Long lists, page by page.",
        words={
            "package": ("catalog", "listing", "browser", "archive"),
            "module": ("paging", "pages", "pagination"),
            "f": ("page_items", "items_on", "page_of", "slice_page"),
            "g": ("page_count", "count_pages", "number_of_pages"),
            "size": _NUMBERS,
        },
        source='''SIZE = <size>
"""Items on a page."""


def <g>(items):
    """How many pages the items take; the last one may be short."""
    return (len(items) + SIZE - 1) // SIZE


def <f>(items, number):
    """The items of a page. Pages count from 1. Raises ValueError for a page that does not exist."""
    if not 1 <= number <= <g>(items):
        raise ValueError(f"no page {number}")
    start = (number - 1) * SIZE
    return items[start : start + SIZE]
''',
        bugs=(
            Bug(
                "(number - 1) * SIZE",
                "number * SIZE",
                "The first <size> items are on no page: <f> of page 1 begins with what belongs on page 2.",
            ),
            Bug(
                "(len(items) + SIZE - 1) // SIZE",
                "len(items) // SIZE",
                "With <size> items on a page, <g> forgets the last page when it is not full.",
            ),
            Bug(
                "start + SIZE]",
                "start + SIZE - 1]",
                "Full pages should have <size> items, but <f> leaves out the last one.",
            ),
            Bug(
                "1 <= number <= <g>",
                "1 <= number < <g>",
                "<f> says that the last page does not exist, whatever the list (pages have <size> items).",
            ),
        ),
        calls=(
            "<g>([])",
            "<g>(list(range(<size>)))",
            "<g>(list(range(2 * <size> + 1)))",
            "<f>(list(range(2 * <size> + 1)), 1)",
            "<f>(list(range(2 * <size> + 1)), 2)",
            "<f>(list(range(2 * <size> + 1)), 3)",
        ),
        user='''from <package>.<module> import <f>, <g>


def all_pages(items):
    """A list of pages, each a list of items."""
    return [<f>(items, number + 1) for number in range(<g>(items))]
''',
    ),
    Program(
        purpose="What is in stock, and what has to be ordered.",
        words={
            "package": ("warehouse", "depot", "pantry", "stockroom"),
            "module": ("stock", "inventory", "supplies"),
            "f": ("take_out", "remove_items", "withdraw", "pick"),
            "g": ("to_order", "running_low", "shortages"),
            "least": _NUMBERS,
        },
        source='''LEAST = <least>
"""Of what there is less, more must be ordered."""


def <f>(stock, name, count):
    """The stock after taking out so many; at most what there is. What is used up is left out."""
    left = dict(stock)
    rest = left.get(name, 0) - count
    if rest > 0:
        left[name] = rest
    else:
        left.pop(name, None)
    return left


def <g>(stock):
    """Names of what has to be ordered, in alphabetical order."""
    return sorted(name for name, count in stock.items() if count < LEAST)
''',
        bugs=(
            Bug("    return left\n", "", "<f> gives None and not the new stock. (We order again below <least>.)"),
            Bug(
                "rest > 0",
                "rest < 0",
                "After <f>, things that are left are gone from the stock, so we order far too early (<least>).",
            ),
            Bug(
                "count < LEAST",
                "count > LEAST",
                "<g> names everything of which there is plenty, and nothing below <least>.",
            ),
            Bug(
                "left.get(name, 0) - count",
                "count - left.get(name, 0)",
                "Counts are upside down after <f>: taking 2 of 50 leaves nothing. (Limit here: <least>.)",
            ),
        ),
        calls=(
            "<f>({'nuts': 50, 'oil': 1}, 'nuts', 2)",
            "<f>({'nuts': 3}, 'nuts', 3)",
            "<f>({'nuts': 3}, 'salt', 1)",
            "<g>({'tea': <least>, 'nuts': <least> - 1, 'oil': 0})",
            "<g>({'tea': <least> + 5})",
        ),
        user='''from <package>.<module> import <f>, <g>


def after_delivery(stock, orders):
    """What has to be ordered once all (name, count) orders are taken out."""
    for name, count in orders:
        stock = <f>(stock, name, count)
    return <g>(stock)
''',
    ),
    Program(
        purpose="Meetings in a room, in minutes since midnight.",
        words={
            "package": ("rooms", "calendar_app", "bookings", "planner"),
            "module": ("meetings", "slots", "times"),
            "f": ("overlaps", "clash", "collides", "conflict"),
            "g": ("free_minutes", "minutes_left", "open_minutes"),
            "opens": ("420", "450", "480", "510", "540"),
            "closes": ("960", "990", "1020", "1050", "1080", "1110"),
        },
        source='''OPENS, CLOSES = <opens>, <closes>


def <f>(first, second):
    """Whether two (start, end) meetings are at the same time; one may begin when the other ends."""
    return first[0] < second[1] and second[0] < first[1]


def <g>(meetings):
    """Minutes between opening and closing without any of the meetings, which do not overlap."""
    taken = 0
    for start, end in meetings:
        taken += max(0, min(end, CLOSES) - max(start, OPENS))
    return CLOSES - OPENS - taken
''',
        bugs=(
            Bug(
                "first[0] < second[1] and",
                "first[0] < second[1] or",
                "<f> finds that any two meetings between <opens> and <closes> are at the same time.",
            ),
            Bug(
                "first[0] < second[1] and second[0] < first[1]",
                "first[0] <= second[1] and second[0] <= first[1]",
                "Back-to-back meetings are refused by <f>. The room is open from <opens> to <closes>.",
            ),
            Bug(
                "taken += max(0, min(end, CLOSES)",
                "taken = max(0, min(end, CLOSES)",
                "<g> only minds the last meeting of the day (<opens> to <closes>).",
            ),
            Bug(
                "min(end, CLOSES) - max(start, OPENS)",
                "max(end, CLOSES) - min(start, OPENS)",
                "With one short meeting in the day (<opens> to <closes>) <g> says 0.",
            ),
        ),
        calls=(
            "<f>((600, 660), (630, 700))",
            "<f>((600, 660), (660, 700))",
            "<f>((600, 660), (700, 760))",
            "<f>((700, 760), (600, 660))",
            "<g>([])",
            "<g>([(600, 660), (700, 730)])",
            "<g>([(0, <opens> + 10), (<closes> - 5, 1440)])",
        ),
        user='''from <package>.<module> import <f>


def can_book(meetings, wanted):
    """Whether the wanted meeting is at another time than all others."""
    return not any(<f>(meeting, wanted) for meeting in meetings)
''',
    ),
)
