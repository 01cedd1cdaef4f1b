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
BAR = Markup(
    '<rect class="c{} whole" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}">'
    "<title>{}, {}: {:.1%}</title></rect>"
)

Scale = Callable[[float], float]
Points = Mapping[Any, float]  # x -> y; x is a whole number or not


def scale(low: float, high: float, start: float, end: float) -> Scale:
    """Maps ``low`` to ``start`` and ``high`` to ``end``; all to ``start`` where they are equal."""
    width = (high - low) or 1.0
    return lambda value: start + (value - low) / width * (end - start)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers between the two."""
    step = 10 ** floor(log10((high - low) / wanted)) if high > low else 1.0
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= wanted)
    first = -floor(-low / step)
    numbers = [round((first + i) * step, 10) for i in range(wanted + 2)]
    return [number for i, number in enumerate(numbers) if (first + i) * step <= high + 1e-9]


def figure(title: str, body: Markup, names: Sequence[str]) -> Markup:
    """A drawing with its title and the key of its colours."""
    key = Markup("")
    for i, name in enumerate(names):
        key += KEY.format(i % COLOURS, name)
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
    xs: set[float] = set()
    ys: list[float] = []
    for points in series.values():
        xs.update(points)
        ys += points.values()
    in_order = sorted(xs)
    place = {value: value for value in in_order}
    if even:
        place = {value: i for i, value in enumerate(in_order)}
    pad = (max(ys) - min(ys)) * 0.08 or 0.05
    low, high = min(ys) - pad, max(ys) + pad
    x = scale(place[in_order[0]], place[in_order[-1]], LEFT + 8, WIDTH - 14)
    y = scale(low, high, FLOOR, TOP)
    if even:
        labels = {place[value]: f"{value:g}" for value in in_order}
    else:
        labels = {tick: f"{tick:g}" for tick in ticks(in_order[0], in_order[-1])}
    body = axes(x, y, labels, ticks(low, high), x_label)
    for i, (name, points) in enumerate(series.items()):
        at = {value: (x(place[value]), y(points[value])) for value in sorted(points)}
        path = " ".join(f"{across:.1f},{down:.1f}" for across, down in at.values())
        body += LINE.format(i % COLOURS, path)
        if len(points) <= MARKED_POINTS:
            for value, (across, down) in at.items():
                body += POINT.format(i % COLOURS, across, down, name, value, points[value])
    return figure(title, body, list(series))


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
    top = max(max(of_sample) for of_sample in shares) * 1.05
    x = scale(low, high, LEFT, WIDTH - 8)
    y = scale(0, top, FLOOR, TOP)
    bar_width = max(x(low + width) - x(low) - 0.5, 0.5)
    labels = {tick: f"{tick:g}" for tick in ticks(low, high)}
    body = axes(x, y, labels, ticks(0, top), "score")
    for i, of_sample in enumerate(shares):
        for place, share in enumerate(of_sample):
            if share:
                left, height = x(low + place * width), max(FLOOR - y(share), 0)
                body += BIN.format(i % COLOURS, left, y(share), bar_width, height)
    return figure(title, body, [f"{name} ({len(sample)})" for name, sample in samples.items()])


def stacked(title: str, rows: Mapping[str, Mapping[str, float]]) -> Markup:
    """A horizontal bar a row, its parts shares that add up to 1."""
    tall = (FLOOR - TOP) / max(len(rows), 1)
    x = scale(0, 1, LEFT + 20, WIDTH - 20)
    body = Markup("")
    for place, (name, parts) in enumerate(rows.items()):
        top = TOP + place * tall
        body += ROW_LABEL.format(LEFT + 14, top + tall / 2 + 3, name)
        start = 0.0
        for i, (part, share) in enumerate(parts.items()):
            left, width = x(start), max(x(start + share) - x(start), 0)
            height = max(tall - 2, 1)
            body += BAR.format(i % COLOURS, left, top + 1, width, height, name, part, share)
            start += share
    for share in (0, 0.25, 0.5, 0.75, 1):
        body += BELOW_AXIS.format(x(share), FLOOR + 14, f"{share:.0%}")
    return figure(title, body, list(next(iter(rows.values()), {})))
