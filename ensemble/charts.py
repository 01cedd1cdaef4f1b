"""Small SVG charts for the report. Text is escaped by ``Markup.format``; colours are the page's classes c0, c1, … (light and dark)."""

from collections.abc import Mapping, Sequence
from math import floor, log10

import numpy as np
from markupsafe import Markup

WIDTH, HEIGHT, LEFT, BOTTOM = 460, 250, 44, 26
COLOURS = 10


def scale(low: float, high: float, start: float, end: float):
    return lambda v: start + (v - low) / ((high - low) or 1.0) * (end - start)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers between the two."""
    step = 10 ** floor(log10((high - low) / wanted)) if high > low else 1.0
    step *= next(f for f in (1, 2, 5, 10) if (high - low) / (step * f) <= wanted)
    first = -floor(-low / step)
    return [
        round((first + i) * step, 10)
        for i in range(wanted + 2)
        if (first + i) * step <= high + 1e-9
    ]


def figure(title: str, body: Markup, names: Sequence[str]) -> Markup:
    key = Markup("").join(
        Markup('<span><i class="c{}"></i>{}</span>').format(i % COLOURS, n)
        for i, n in enumerate(names)
    )
    return Markup(
        '<figure><figcaption>{}</figcaption><svg role="img" aria-label="{}" viewBox="0 0 {} {}">{}</svg><p class="key">{}</p></figure>'
    ).format(title, title, WIDTH, HEIGHT, body, key)


def axes(x, y, x_ticks: Mapping[float, str], y_ticks: Sequence[float], x_label: str) -> Markup:
    parts = [
        Markup(
            '<line class="axis" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/><text x="{}" y="{:.1f}" text-anchor="end">{:g}</text>'
        ).format(LEFT, WIDTH - 8, y(t), y(t), LEFT - 5, y(t) + 3.5, t)
        for t in y_ticks
    ]
    parts += [
        Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
            x(t), HEIGHT - BOTTOM + 14, label
        )
        for t, label in x_ticks.items()
    ]
    return Markup("").join(parts) + Markup(
        '<text x="{}" y="{}" text-anchor="end">{}</text>'
    ).format(WIDTH - 8, HEIGHT - BOTTOM - 5, x_label)


def lines(
    title: str, x_label: str, series: Mapping[str, Mapping[float, float]], even: bool = False
) -> Markup:
    """A line a series, x -> y; with ``even`` the x values stand at equal distances. Empty series are left out."""
    series = {name: points for name, points in series.items() if points}
    if not series:
        return Markup("")
    xs = sorted({v for points in series.values() for v in points})
    ys = [v for points in series.values() for v in points.values()]
    pad = (max(ys) - min(ys)) * 0.08 or 0.05
    place = {v: i for i, v in enumerate(xs)} if even else {v: v for v in xs}
    x = scale(place[xs[0]], place[xs[-1]], LEFT + 8, WIDTH - 14)
    y = scale(min(ys) - pad, max(ys) + pad, HEIGHT - BOTTOM, 8)
    labels = (
        {place[v]: f"{v:g}" for v in xs} if even else {t: f"{t:g}" for t in ticks(xs[0], xs[-1])}
    )
    body = axes(x, y, labels, ticks(min(ys) - pad, max(ys) + pad), x_label)
    for i, (name, points) in enumerate(series.items()):
        found = [(x(place[v]), y(points[v]), v, points[v]) for v in sorted(points)]
        body += Markup('<polyline class="c{}" points="{}"/>').format(
            i % COLOURS, " ".join(f"{a:.1f},{b:.1f}" for a, b, _, _ in found)
        )
        if len(found) <= 40:
            body += Markup("").join(
                Markup(
                    '<circle class="c{}" cx="{:.1f}" cy="{:.1f}" r="2.6"><title>{}: {:g}, {:.4f}</title></circle>'
                ).format(i % COLOURS, a, b, name, v, w)
                for a, b, v, w in found
            )
    return figure(title, body, list(series))


def histogram(title: str, groups: Mapping[str, Sequence[float]], bins: int = 30) -> Markup:
    """Each group's share of values a bin, one over the other."""
    everything = [v for values in groups.values() for v in values]
    if not everything:
        return Markup("")
    low, high = min(everything), max(everything)
    width = (high - low) / bins or 1.0
    shares = {
        name: np.histogram(values, bins, (low, low + bins * width))[0] / max(len(values), 1)
        for name, values in groups.items()
    }
    top = max(max(s) for s in shares.values())
    x, y = scale(low, high, LEFT, WIDTH - 8), scale(0, top * 1.05, HEIGHT - BOTTOM, 8)
    body = axes(x, y, {t: f"{t:g}" for t in ticks(low, high)}, ticks(0, top * 1.05), "score")
    for i, found in enumerate(shares.values()):
        body += Markup("").join(
            Markup(
                '<rect class="c{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>'
            ).format(
                i % COLOURS,
                x(low + b * width),
                y(s),
                max(x(low + width) - x(low) - 0.5, 0.5),
                max(HEIGHT - BOTTOM - y(s), 0),
            )
            for b, s in enumerate(found)
            if s
        )
    return figure(title, body, [f"{name} ({len(values)})" for name, values in groups.items()])


def stacked(title: str, rows: Mapping[str, Mapping[str, float]]) -> Markup:
    """A horizontal bar a row, its parts shares that add up to 1."""
    tall = (HEIGHT - BOTTOM - 8) / max(len(rows), 1)
    x, body = scale(0, 1, LEFT + 20, WIDTH - 20), Markup("")
    for r, (name, parts) in enumerate(rows.items()):
        top, start = 8 + r * tall, 0.0
        body += Markup('<text x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(
            LEFT + 14, top + tall / 2 + 3, name
        )
        for i, (part, share) in enumerate(parts.items()):
            body += Markup(
                '<rect class="c{} whole" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}, {}: {:.1%}</title></rect>'
            ).format(
                i % COLOURS,
                x(start),
                top + 1,
                max(x(start + share) - x(start), 0),
                max(tall - 2, 1),
                name,
                part,
                share,
            )
            start += share
    body += Markup("").join(
        Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{:.0%}</text>').format(
            x(t), HEIGHT - BOTTOM + 14, t
        )
        for t in (0, 0.25, 0.5, 0.75, 1)
    )
    return figure(title, body, list(next(iter(rows.values()), {})))
