"""Plots as SVG that takes its colours from the page: lines over time, dots of a distribution, dots in a plane."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

from personalive.evaluation.statistics import Estimate

STYLE = """
svg { display: block; width: 100%; overflow: visible; }
svg text { fill: currentColor; font-size: 12px; }
.line { fill: none; stroke: var(--ink); stroke-width: 1.6; vector-effect: non-scaling-stroke; }
.line.second { stroke: var(--faint); stroke-dasharray: 5 3; }
.dot { fill: var(--ink); fill-opacity: .75; }
.other { fill: var(--faint); }
.axis { stroke: var(--line); vector-effect: non-scaling-stroke; }
.band { fill: var(--ink); fill-opacity: .18; }
.mean { stroke: var(--ink); stroke-width: 2; }
.frame { border: 1px solid var(--line); border-radius: .4rem; height: 5.5rem; padding: .3rem; }
.frame svg { height: 100%; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: .85rem; color: var(--soft); }
figcaption b { color: var(--text); font-weight: 600; }
.key { white-space: nowrap; }
.swatch { display: inline-block; width: 1.4em; border-top: 2px solid var(--ink); vertical-align: middle; }
.swatch.second { border-top: 2px dashed var(--faint); }
"""

WIDTH = 360  # of plots with text inside, CSS pixels; they shrink with the page


def number(value: float) -> str:
    """Four digits; a dash for what was not measured."""
    return "–" if math.isnan(value) else f"{value:.4g}"


def lines(name: str, series: Mapping[str, Sequence[float]]) -> str:
    """One or two series over frames, on one scale, the first one in front. Frames without a value break the line."""
    known = [value for values in series.values() for value in values if not math.isnan(value)]
    if len(known) < 2:
        return f"<figure><div class=frame>not measured</div><figcaption>{escape(name)}</figcaption></figure>"
    low, high = min(known), max(known)
    paths = "".join(
        f"<path class='line {kind}' d='{_path(values, low, high)}'/>"
        for kind, values in reversed(list(zip(("first", "second"), series.values(), strict=False)))
    )
    legend = ""
    if len(series) > 1:
        kinds = zip(("first", "second"), series, strict=False)
        legend = "; " + ", ".join(
            f"<span class=key><span class='swatch {kind}'></span> {escape(label)}</span>" for kind, label in kinds
        )
    frames = max(map(len, series.values()))
    return (
        f"<figure><div class=frame><svg viewBox='0 0 1000 100' preserveAspectRatio=none role=img "
        f"aria-label='{escape(name)} by frame'>{paths}</svg></div><figcaption>{escape(name)}: "
        f"{number(low)} to {number(high)} over {frames} frames{legend}</figcaption></figure>"
    )


def _path(values: Sequence[float], low: float, high: float) -> str:
    spread = (high - low) or 1.0
    parts, pen = [], "M"
    for place, value in enumerate(values):
        if math.isnan(value):
            pen = "M"
            continue
        parts.append(f"{pen}{place / max(len(values) - 1, 1) * 1000:.1f} {96 - (value - low) / spread * 92:.1f}")
        pen = "L"
    return "".join(parts)


def distribution(name: str, values: Mapping[str, float], estimate: Estimate) -> str:
    """A dot for each case, named on hover, with the mean and its interval."""
    return distributions(name, {"": (values, estimate)}, f", mean {number(estimate.mean)}")


def distributions(name: str, rows: Mapping[str, tuple[Mapping[str, float], Estimate]], remark: str = "") -> str:
    """The same for several, one above the other on one scale, each with its name; nothing where nothing is known."""
    known = {row: {case: v for case, v in values.items() if not math.isnan(v)} for row, (values, _) in rows.items()}
    everything = [value for values in known.values() for value in values.values()]
    if not everything:
        return ""
    low, high = min(everything), max(everything)

    def x(value: float) -> float:
        return 10 + (value - low) / ((high - low) or 1.0) * (WIDTH - 20)

    parts, y = [], 0
    for row, (_, estimate) in rows.items():
        if row:
            parts.append(f"<text x=10 y={y + 12}>{escape(row)}, mean {number(estimate.mean)}</text>")
            y += 14
        parts.append(_dots(known[row], estimate, x, y))
        y += 38
    return (
        f"<figure><figcaption><b>{escape(name)}</b>{escape(remark)}</figcaption>"
        f"<svg viewBox='0 0 {WIDTH} {y + 14}' role=img aria-label='{escape(name)} by video'>{''.join(parts)}"
        f"<text x=10 y={y + 11}>{number(low)}</text>"
        f"<text x={WIDTH - 10} y={y + 11} text-anchor=end>{number(high)}</text></svg></figure>"
    )


def _dots(values: Mapping[str, float], estimate: Estimate, x: Callable[[float], float], y: int) -> str:
    """One row, 36 high: interval, axis, mean, dots."""
    band = mean = ""
    if not math.isnan(estimate.low):
        wide = max(x(estimate.high) - x(estimate.low), 1)
        band = f"<rect class=band x={x(estimate.low):.1f} y={y + 6} width={wide:.1f} height=28 />"
    if not math.isnan(estimate.mean):
        middle = x(estimate.mean)
        mean = f"<line class=mean x1={middle:.1f} x2={middle:.1f} y1={y + 6} y2={y + 36} />"
    dots = "".join(
        f"<circle class=dot cx={x(value):.1f} cy={y + 20 + 7 * ((place % 3) - 1)} r=4>{_hover(case, value)}</circle>"
        for place, (case, value) in enumerate(values.items())
    )
    return f"{band}<line class=axis x1=10 x2={WIDTH - 10} y1={y + 36} y2={y + 36} />{mean}{dots}"


def plane(x_name: str, y_name: str, points: Mapping[str, tuple[float, float]]) -> str:
    """Numbered dots, named below, x to the right on a scale of powers, y upwards; the first one in front colour."""
    xs, ys = ([math.log10(x) for x, _ in points.values()], [y for _, y in points.values()])
    left, right, low, high = min(xs), max(xs), min(ys), max(ys)
    marks = []
    for order, (name, (x, y)) in enumerate(points.items(), 1):
        cx = 22 + (math.log10(x) - left) / ((right - left) or 1.0) * (WIDTH - 60)
        cy = 130 - (y - low) / ((high - low) or 1.0) * 110
        kind = "dot" if order == 1 else "dot other"
        marks.append(f"<circle class='{kind}' cx={cx:.1f} cy={cy:.1f} r=5>{_hover(name, x, y)}</circle>")
        marks.append(f"<text x={cx + 8:.1f} y={cy + 4:.1f}>{order}</text>")
    names = ", ".join(f"{order} {name}" for order, name in enumerate(points, 1))
    return (
        f"<figure><figcaption><b>{escape(y_name)}</b>, {number(low)} to {number(high)}</figcaption>"
        f"<svg viewBox='0 0 {WIDTH} 164' role=img aria-label='{escape(y_name)} against {escape(x_name)}'>"
        f"<line class=axis x1=10 x2=10 y1=10 y2=144 /><line class=axis x1=10 x2={WIDTH - 10} y1=144 y2=144 />"
        f"{''.join(marks)}<text x={WIDTH - 10} y=160 text-anchor=end>{escape(x_name)}: {number(10**left)} to "
        f"{number(10**right)}</text></svg><figcaption>{escape(names)}</figcaption></figure>"
    )


def _hover(name: str, *values: float) -> str:
    return f"<title>{escape(name)}: {', '.join(map(number, values))}</title>"
