"""Charts as inline SVG: text goes through the XML writer, colours come from the page's classes."""

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.etree import ElementTree as ET

from markupsafe import Markup

from common.errors import visible

COLOURS = 7
# Beyond this a chart is of no use, and its arithmetic overflows.
LARGEST = 1e30
_WIDTH, _HEIGHT = 380, 240
_HISTOGRAM_HEIGHT = 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 24, 10, 38
_LETTER_HEIGHT = 12
_MOST_POINTS = 160
_MOST_DOTS = 24


@dataclass(frozen=True)
class Line:
    """One curve of a chart.

    Attributes:
        run: position of the run among those compared; gives colour and letter.
        name: what the curve is called when asked (``run-a val/loss``).
        main: drawn strong and lettered, as validation is; training is thin.
        images: images seen, rising, at least one.
        values: finite, one for each entry of `images`.
    """

    run: int
    name: str
    main: bool
    images: Sequence[int]
    values: Sequence[float]


@dataclass(frozen=True)
class Axis:
    """Maps `low` to `start` and `high` to `end`, in pixels, straight or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Position of a value, in pixels."""
        low, high, at = (self._scaled(v) for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (at - low) / (high - low)

    def ticks(self) -> list[float]:
        """About five round values inside the range; powers of ten on a log axis."""
        if self.log:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            return [10.0**power for power in range(first, last + 1, (last - first) // 5 + 1)]
        step = _round_step((self.high - self.low) / 4)
        count = range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)
        return [index * step for index in count]

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.log else value


def letter(run: int) -> str:
    """The run's letter: A to Z, then A1 to Z1 and on."""
    return string.ascii_uppercase[run % 26] + (str(run // 26) if run >= 26 else "")


def spans_decades(values: Sequence[float]) -> bool:
    """Whether positive values span more than two powers of ten, which asks for a log axis."""
    return min(values) > 0 and max(values) / min(values) > 100


def short_number(value: float | None) -> str:
    """Four significant digits; thousands apart from 10 000 on; "—" for None."""
    if value is None:
        return "—"
    if math.isfinite(value) and 1e4 <= abs(value) < 1e15:
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.4g}".replace("-", "−")


def curve_chart(lines: Sequence[Line], title: str, identity: str) -> Markup:
    """Draws curves over images seen, the runs overlaid.

    Curves of more than 160 points are drawn as means of equally many neighbours, with the range
    from the lowest to the highest of them as a pale band.

    Args:
        lines: at least one.
        title: what a screen reader says about the chart.
        identity: unique on the page, for the title's id.
    """
    x, y = _axes(lines)
    svg = _svg(_WIDTH, _HEIGHT, title, identity)
    for value in y.ticks():
        _add(svg, "line", "grid", x1=x.start, x2=x.end, y1=y(value), y2=y(value))
        _text(svg, "tick end", x.start - 7, y(value) + 3.5, _tick(value))
    for value in x.ticks():
        _add(svg, "line", "notch", x1=x(value), x2=x(value), y1=y.start, y2=y.start + 4)
        _text(svg, "tick middle", x(value), y.start + 16, _tick(value))
    _add(svg, "line", "axis", x1=x.start, x2=x.end, y1=y.start, y2=y.start)
    _text(svg, "tick middle", (x.start + x.end) / 2, _HEIGHT - 5, "images seen")
    for line in sorted(lines, key=lambda line: line.main):
        _draw(svg, line, x, y)
    _letters(svg, lines, y)
    return _markup(svg)


def interval_chart(
    points: Sequence[tuple[int, float, float, float]], title: str, identity: str
) -> Markup:
    """Draws values with their intervals, one run below the other on one axis.

    Args:
        points: (run, value, low, high), at least one; low equals high where there is no interval.
        title: what a screen reader says about the chart.
        identity: unique on the page, for the title's id.
    """
    width, pitch = 190, 17
    height = pitch * len(points) + 24
    bounds = [v for _, *triple in points for v in triple]
    x = Axis(*_padded(min(bounds), max(bounds)), 22, width - 10)
    svg = _svg(width, height, title, identity)
    for value in x.ticks()[:: 2 if len(x.ticks()) > 4 else 1]:
        _add(svg, "line", "grid", x1=x(value), x2=x(value), y1=2, y2=height - 20)
        _text(svg, "tick middle", x(value), height - 6, _tick(value))
    for row, (run, value, low, high) in enumerate(points):
        y = pitch * (row + 0.5) + 2
        _text(svg, f"letter c{run % COLOURS}", 2, y + 4, letter(run))
        _add(svg, "line", f"main c{run % COLOURS}", x1=x(low), x2=x(high), y1=y, y2=y)
        _add(svg, "circle", f"dot c{run % COLOURS}", cx=x(value), cy=y, r=3.5)
    return _markup(svg)


def histogram_chart(
    edges: Sequence[float],
    real: Sequence[float],
    runs: Sequence[tuple[int, str, Sequence[float]]],
    title: str,
    identity: str,
) -> Markup:
    """Draws how a scalar is distributed: held-out images as an area, each run as an outline.

    Args:
        edges: [B + 1] rising, of the bins.
        real: [B] share of the held-out images in each bin.
        runs: (run, name, [B] shares), at least one.
        title: what a screen reader says about the chart.
        identity: unique on the page, for the title's id.
    """
    top = max([*real, *(share for _, _, shares in runs for share in shares)]) * 1.06
    x = Axis(edges[0], edges[-1], _LEFT, _WIDTH - 10)
    y = Axis(0, top or 1, _HISTOGRAM_HEIGHT - 22, _TOP)
    svg = _svg(_WIDTH, _HISTOGRAM_HEIGHT, title, identity)
    for value in y.ticks():
        _add(svg, "line", "grid", x1=x.start, x2=x.end, y1=y(value), y2=y(value))
        _text(svg, "tick end", x.start - 7, y(value) + 3.5, f"{100 * value:.0f} %")
    for value in x.ticks():
        _text(svg, "tick middle", x(value), _HISTOGRAM_HEIGHT - 6, _tick(value))
    base = f"L{x.end:.1f} {y.start:.1f}L{x.start:.1f} {y.start:.1f}Z"
    _add(svg, "path", "held-out", d=_path(_steps(edges, real, x, y)) + base)
    for run, name, shares in runs:
        group = _add(svg, "g", f"main c{run % COLOURS}")
        ET.SubElement(group, "title").text = visible(name)
        _add(group, "path", "stroke", d=_path(_steps(edges, shares, x, y)))
    _add(svg, "line", "axis", x1=x.start, x2=x.end, y1=y.start, y2=y.start)
    return _markup(svg)


def _steps(
    edges: Sequence[float], shares: Sequence[float], x: Axis, y: Axis
) -> list[tuple[float, float]]:
    points = []
    for (left, right), share in zip(pairwise(edges), shares, strict=True):
        points += [(x(left), y(share)), (x(right), y(share))]
    return points


def _axes(lines: Sequence[Line]) -> tuple[Axis, Axis]:
    images = [v for line in lines for v in line.images]
    values = [v for line in lines for v in line.values]
    x = Axis(*_padded(min(0, *images), max(images), 0), _LEFT, _WIDTH - _RIGHT)
    log = spans_decades(values)
    low, high = (min(values), max(values)) if log else _padded(min(values), max(values))
    return x, Axis(low, high, _HEIGHT - _BOTTOM, _TOP, log)


def _padded(low: float, high: float, share: float = 0.06) -> tuple[float, float]:
    size = max(abs(low), abs(high))
    if high - low > 1e-9 * size + 1e-30:
        margin = (high - low) * share
    else:  # One single value has no range of its own: it is shown in the middle.
        margin = size / 2 if size > 1e-30 else 1.0
    return low - margin, high + margin


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next((m * power for m in (1, 2, 2.5, 5) if m * power >= rough * 0.999), 10 * power)


def _draw(svg: ET.Element, line: Line, x: Axis, y: Axis) -> None:
    strength, colour = ("main" if line.main else "side"), f"c{line.run % COLOURS}"
    group = _add(svg, "g", f"{strength} {colour}")
    ET.SubElement(group, "title").text = visible(line.name)
    means, lows, highs = _thinned(line)
    if len(means) < len(line.images):
        outline = [(x(a), y(b)) for a, b in lows + highs[::-1]]
        _add(group, "path", "band", d=_path(outline) + "Z")
    points = [(x(a), y(b)) for a, b in means]
    _add(group, "path", "stroke", d=_path(points))
    if len(points) == 1 or (line.main and len(points) <= _MOST_DOTS):
        for at_x, at_y in points:
            _add(group, "circle", "dot", cx=at_x, cy=at_y, r=2.5)


def _thinned(line: Line) -> tuple[list[tuple[float, float]], ...]:
    points = list(zip(line.images, line.values, strict=True))
    size = math.ceil(len(points) / _MOST_POINTS)
    means, lows, highs = [], [], []
    for start in range(0, len(points), size):
        xs, ys = zip(*points[start : start + size], strict=True)
        middle = sum(xs) / len(xs)
        means.append((middle, math.fsum(ys) / len(ys)))
        lows.append((middle, min(ys)))
        highs.append((middle, max(ys)))
    return means, lows, highs


def _letters(svg: ET.Element, lines: Sequence[Line], y: Axis) -> None:
    """One letter a run at the end of its main curve, moved apart where curves end together."""
    ends = {line.run: y(_thinned(line)[0][-1][1]) for line in sorted(lines, key=lambda k: k.main)}
    at = sorted((end, run) for run, end in ends.items())
    heights = [end for end, _ in at]
    for above, below in pairwise(range(len(at))):
        heights[below] = max(heights[below], heights[above] + _LETTER_HEIGHT)
    overflow = max(0.0, heights[-1] - (_HEIGHT - _BOTTOM))
    for height, (_, run) in zip(heights, at, strict=True):
        place = f"letter c{run % COLOURS}"
        _text(svg, place, _WIDTH - _RIGHT + 6, height + 4 - overflow, letter(run))


def _tick(value: float) -> str:
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size <= abs(value) < 1e12:
            return short_number(value / size) + sign
    return short_number(value)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _svg(width: int, height: int, title: str, identity: str) -> ET.Element:
    box = {"viewBox": f"0 0 {width} {height}", "role": "img", "aria-labelledby": identity}
    svg = ET.Element("svg", box)
    ET.SubElement(svg, "title", {"id": identity}).text = visible(title)
    return svg


def _add(parent: ET.Element, tag: str, style: str, **attributes: float | str) -> ET.Element:
    shown = {k: v if isinstance(v, str) else f"{v:.1f}" for k, v in attributes.items()}
    return ET.SubElement(parent, tag, {"class": style, **shown})


def _text(parent: ET.Element, style: str, x: float, y: float, text: str) -> None:
    _add(parent, "text", style, x=x, y=y).text = visible(text)


def _markup(svg: ET.Element) -> Markup:
    return Markup(ET.tostring(svg, encoding="unicode"))
