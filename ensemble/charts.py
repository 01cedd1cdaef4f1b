"""Small SVG charts for the report.

Text is escaped by ``Markup.format``; colours are the page's classes c0, c1, … (light and dark).
"""

from collections.abc import Callable, Mapping, Sequence
from math import floor, log10
from typing import Any

import numpy as np
from markupsafe import Markup

WIDTH, HEIGHT, LEFT, BOTTOM = 460, 250, 44, 26
FLOOR = HEIGHT - BOTTOM  # where the lowest values stand
TOP = 8
COLOURS = 10
MARKED_POINTS = 40  # of a line; of a longer one the points have no marks

FIGURE = Markup(
    "<figure><figcaption>{}</figcaption>"
    '<svg role="img" aria-label="{}" viewBox="0 0 {} {}">{}</svg><p class="key">{}</p></figure>'
)
KEY = Markup('<span><i class="c{}"></i>{}</span>')
GRID_LINE = Markup(
    '<line class="axis" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>'
    '<text x="{}" y="{:.1f}" text-anchor="end">{:g}</text>'
)
BELOW_AXIS = Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>')
AXIS_LABEL = Markup('<text x="{}" y="{}" text-anchor="end">{}</text>')
LINE = Markup('<polyline class="c{}" points="{}"/>')
POINT = Markup(
    '<circle class="c{}" cx="{:.1f}" cy="{:.1f}" r="2.6"><title>{}: {:g}, {:.4f}</title></circle>'
)
BIN = Markup('<rect class="c{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>')
ROW_LABEL = Markup('<text x="{}" y="{:.1f}" text-anchor="end">{}</text>')
PART = Markup(
    '<rect class="c{} whole" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}">'
    "<title>{}, {}: {:.1%}</title></rect>"
)

Scale = Callable[[float], float]
Points = Mapping[Any, float]  # x -> y; x is a whole number or not


def scale(low: float, high: float, start: float, end: float) -> Scale:
    """Maps ``low`` to ``start`` and ``high`` to ``end``; all to ``start`` where they are equal."""
    width = (high - low) or 1.0

    def place(value: float) -> float:
        return start + (value - low) / width * (end - start)

    return place


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers between the two."""
    step = tick_step(low, high, wanted)
    first = -floor(-low / step)
    numbers = []
    for place in range(first, first + wanted + 2):
        if place * step <= high + 1e-9:
            numbers.append(round(place * step, 10))
    return numbers


def tick_step(low: float, high: float, wanted: int) -> float:
    """The least of 1, 2, 5, 10 times a power of ten that parts the two into ``wanted`` at most."""
    if high <= low:
        return 1.0
    power = 10 ** floor(log10((high - low) / wanted))
    for factor in (1, 2, 5):
        if (high - low) / (power * factor) <= wanted:
            return power * factor
    return power * 10


def labelled(numbers: Sequence[float]) -> dict[float, str]:
    """Numbers of an axis with their texts."""
    return {number: f"{number:g}" for number in numbers}


def colour(place: int) -> int:
    """The number of the class of the series, sample or part at ``place``."""
    return place % COLOURS


def figure(title: str, body: Markup, names: Sequence[str]) -> Markup:
    """A drawing with its title and the key of its colours."""
    key = Markup("")
    for place, name in enumerate(names):
        key += KEY.format(colour(place), name)
    return FIGURE.format(title, title, WIDTH, HEIGHT, body, key)


def axes(
    x: Scale,
    y: Scale,
    x_ticks: Mapping[float, str],
    y_ticks: Sequence[float],
    x_label: str,
) -> Markup:
    """Grid lines with their numbers, and below them the labels of the x axis."""
    drawn = Markup("")
    for tick in y_ticks:
        height = y(tick)
        drawn += GRID_LINE.format(LEFT, WIDTH - 8, height, height, LEFT - 5, height + 3.5, tick)
    for tick, label in x_ticks.items():
        drawn += BELOW_AXIS.format(x(tick), FLOOR + 14, label)
    return drawn + AXIS_LABEL.format(WIDTH - 8, FLOOR - 5, x_label)


def lines(title: str, x_label: str, series: Mapping[str, Points], even: bool = False) -> Markup:
    """A line a series, x -> y; with ``even`` the x values stand at equal distances.

    Empty series are left out; nothing is drawn without any points.
    """
    series = {name: points for name, points in series.items() if points}
    if not series:
        return Markup("")
    every_x: set[float] = set()
    every_y: list[float] = []
    for points in series.values():
        every_x.update(points)
        every_y += points.values()
    in_order = sorted(every_x)

    lowest, highest = min(every_y), max(every_y)
    margin = (highest - lowest) * 0.08 or 0.05
    low, high = lowest - margin, highest + margin
    y = scale(low, high, FLOOR, TOP)

    place: dict[float, float] = {}
    labels: dict[float, str] = {}
    for number, value in enumerate(in_order):
        place[value] = number if even else value
        labels[number] = f"{value:g}"
    if not even:
        labels = labelled(ticks(in_order[0], in_order[-1]))
    x = scale(place[in_order[0]], place[in_order[-1]], LEFT + 8, WIDTH - 14)

    body = axes(x, y, labels, ticks(low, high), x_label)
    for number, (name, points) in enumerate(series.items()):
        body += line(name, points, colour(number), place, x, y)
    return figure(title, body, list(series))


def line(
    name: str,
    points: Points,
    class_number: int,
    place: Mapping[float, float],
    x: Scale,
    y: Scale,
) -> Markup:
    """One series, with marks at its points where they are few; ``place``: of each x value."""
    corners = []
    marks = Markup("")
    for value in sorted(points):
        across, down = x(place[value]), y(points[value])
        corners.append(f"{across:.1f},{down:.1f}")
        marks += POINT.format(class_number, across, down, name, value, points[value])
    drawn = LINE.format(class_number, " ".join(corners))
    return drawn + marks if len(points) <= MARKED_POINTS else drawn


def histogram(title: str, samples: Mapping[str, Sequence[float]], bins: int = 30) -> Markup:
    """Each sample's share of values a bin, one sample over the other."""
    everything = [value for sample in samples.values() for value in sample]
    if not everything:
        return Markup("")
    low, high = min(everything), max(everything)
    width = (high - low) / bins or 1.0
    shares = []
    for sample in samples.values():
        counts, _ = np.histogram(sample, bins, (low, low + bins * width))
        shares.append(counts / max(len(sample), 1))

    top = np.max(shares) * 1.05
    x = scale(low, high, LEFT, WIDTH - 8)
    y = scale(0, top, FLOOR, TOP)
    bar_width = max(x(low + width) - x(low) - 0.5, 0.5)
    body = axes(x, y, labelled(ticks(low, high)), ticks(0, top), "score")
    for number, of_sample in enumerate(shares):
        for place, share in enumerate(of_sample):
            if not share:
                continue
            left = x(low + place * width)
            height = max(FLOOR - y(share), 0)
            body += BIN.format(colour(number), left, y(share), bar_width, height)
    names = [f"{name} ({len(sample)})" for name, sample in samples.items()]
    return figure(title, body, names)


def stacked(title: str, rows: Mapping[str, Mapping[str, float]]) -> Markup:
    """A horizontal bar a row, its parts shares that add up to 1."""
    tall = (FLOOR - TOP) / max(len(rows), 1)
    x = scale(0, 1, LEFT + 20, WIDTH - 20)
    body = Markup("")
    parts: Sequence[str] = []
    for place, (name, shares) in enumerate(rows.items()):
        top = TOP + place * tall
        body += ROW_LABEL.format(LEFT + 14, top + tall / 2 + 3, name)
        body += bar(name, shares, x, top=top + 1, height=max(tall - 2, 1))
        parts = parts or list(shares)
    for share in (0, 0.25, 0.5, 0.75, 1):
        body += BELOW_AXIS.format(x(share), FLOOR + 14, f"{share:.0%}")
    return figure(title, body, parts)


def bar(name: str, shares: Mapping[str, float], x: Scale, top: float, height: float) -> Markup:
    """The parts of one row, from left to right."""
    drawn = Markup("")
    start = 0.0
    for number, (part, share) in enumerate(shares.items()):
        left = x(start)
        width = max(x(start + share) - left, 0)
        drawn += PART.format(colour(number), left, top, width, height, name, part, share)
        start += share
    return drawn
