"""Plots as SVG text: they scale to a phone, follow the page's colours in the dark, and need nothing installed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 460, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 14, 14, 44  #: margins around the axes


@dataclass(frozen=True)
class Point:
    """A row of the table in a plot.

    Attributes:
        number: in the table, drawn in the point. name: shown on hovering. x: above 0. y: in percent; NaN: it has no result, and is drawn
            crossed at the lower edge. spread: standard deviation, NaN where there is none. control: drawn grey.
    """

    number: int
    name: str
    x: float
    y: float
    spread: float
    control: bool


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in both: cheaper ones are all less accurate. By rising x."""
    best: list[Point] = []
    for point in sorted((p for p in points if not math.isnan(p.y)), key=lambda p: (p.x, -p.y)):
        if not best or point.y > best[-1].y:
            best.append(point)
    return best


def scatter(points: Sequence[Point], x_label: str, levels: Mapping[str, float], limits: Sequence[tuple[float, str]] = ()) -> str:
    """Accuracy over a cost, logarithmic, the front as steps.

    Args:
        levels: horizontal lines by name, in percent. limits: vertical lines and their names.
    """
    axes = _Axes([p.x for p in points] + [x for x, _ in limits], _finite([p.y for p in points] + list(levels.values())), x_label)
    parts = axes.frame()
    for name, y in levels.items():
        if not math.isnan(y):
            parts.append(f'<path class="level" d="M{_LEFT} {axes.y(y):.1f}H{_WIDTH - _RIGHT}"/>{_text(_LEFT + 4, axes.y(y) - 4, name)}')
    parts += [f'<path class="limit" d="M{axes.x(at):.1f} {_TOP}V{_HEIGHT - _BOTTOM}"/>' for at, _ in limits]
    for i, (at, name) in enumerate(limits):  # over the lines, on the side where there is room
        left = axes.x(at) > (_LEFT + _WIDTH) / 2
        parts.append(_text(axes.x(at) + (-4 if left else 4), _TOP + 10 + 13 * i, name, "end" if left else "start"))
    steps = [f"{'M' if i == 0 else f'H{axes.x(p.x):.1f}V'}" + (f"{axes.x(p.x):.1f} " if i == 0 else "") + f"{axes.y(p.y):.1f}"
             for i, p in enumerate(front(points))]  # fmt: skip
    parts.append(f'<path class="front" d="{"".join(steps)}"/>')
    for p in points:
        lost = math.isnan(p.y)
        x, y = axes.x(p.x), _HEIGHT - _BOTTOM - 8 if lost else axes.y(p.y)
        kind = "lost" if lost else "control" if p.control else "rule"
        if not lost and not math.isnan(p.spread):
            parts.append(f'<path class="{kind}" d="M{x:.1f} {axes.y(p.y - p.spread):.1f}V{axes.y(p.y + p.spread):.1f}"/>')
        said = f"{p.number} {p.name}: " + ("no result" if lost else f"{p.y:.1f} %")
        parts.append(f'<g class="{kind}"><title>{escape(said)}</title>{_numbered(x, y, p.number)}</g>')
    return _svg(parts, f"accuracy over {x_label}")


def curves(lines: Mapping[str, Sequence[tuple[float, float, float]]], x_label: str) -> str:
    """Lines of ``(x, accuracy in percent, standard deviation)``, numbered in their order; x logarithmic."""
    every = [point for line in lines.values() for point in line]
    axes = _Axes([x for x, _, _ in every], _finite([y for _, y, _ in every]), x_label)
    parts = axes.frame()
    for number, (name, line) in enumerate(lines.items(), start=1):
        line = [point for point in sorted(line) if not math.isnan(point[1])]
        if not line:
            continue
        path = "L".join(f"{axes.x(x):.1f} {axes.y(y):.1f}" for x, y, _ in line)
        parts.append(f'<g class="line c{number % 6}"><title>{escape(name)}</title><path d="M{path}"/>')
        for x, y, spread in line:
            if not math.isnan(spread):
                parts.append(f'<path d="M{axes.x(x):.1f} {axes.y(y - spread):.1f}V{axes.y(y + spread):.1f}"/>')
        x, y, _ = line[-1] if number % 2 else line[0]
        parts.append(
            f'<circle cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="8"/>{_text(axes.x(x), axes.y(y) + 3.5, str(number), "middle")}</g>'
        )
    return _svg(parts, f"accuracy over {x_label}")


def _numbered(x: float, y: float, number: int) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8"/>{_text(x, y + 3.5, str(number), "middle")}'


def _finite(values: Sequence[float]) -> list[float]:
    return [v for v in values if not math.isnan(v)] or [0.0, 100.0]


class _Axes:
    def __init__(self, xs: Sequence[float], ys: Sequence[float], x_label: str):
        self.low, self.high = math.log10(min(xs)) - 0.08, math.log10(max(xs)) + 0.08
        room = max(2.0, 0.1 * (max(ys) - min(ys)))
        self.bottom, self.top, self.x_label = min(ys) - room, max(ys) + room, x_label

    def x(self, value: float) -> float:
        return _LEFT + (math.log10(value) - self.low) / (self.high - self.low) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - self.bottom) / (self.top - self.bottom) * (_HEIGHT - _TOP - _BOTTOM)

    def frame(self) -> list[str]:
        step = next(s for s in (1, 2, 5, 10, 20, 25, 50, 100) if (self.top - self.bottom) / s <= 7)
        parts = []
        for tick in range(math.ceil(self.bottom / step) * step, math.floor(self.top) + 1, step):
            parts.append(f'<path class="grid" d="M{_LEFT} {self.y(tick):.1f}H{_WIDTH - _RIGHT}"/>')
            parts.append(_text(_LEFT - 6, self.y(tick) + 4, f"{tick}", "end"))
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        shown = ([m * 10.0**d for d in decades for m in some] for some in ((1, 2, 5), range(1, 10)))  # finer where the range is small
        some = [[tick for tick in ticks if self.low <= math.log10(tick) <= self.high] for ticks in shown]
        ticks = some[0] if len(some[0]) > 2 else some[1]
        for tick in ticks[:: 1 + len(ticks) // 8]:
            parts.append(f'<path class="grid" d="M{self.x(tick):.1f} {_TOP}V{_HEIGHT - _BOTTOM}"/>')
            parts.append(_text(self.x(tick), _HEIGHT - _BOTTOM + 16, f"{tick:,g}" if tick < 1e6 else f"{tick:.0e}", "middle"))
        parts.append(_text((_LEFT + _WIDTH) / 2, _HEIGHT - 8, self.x_label, "middle"))
        return parts


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(parts: Sequence[str], label: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
