"""The figures of variants, written: JSON, CSV, Markdown and one HTML page."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from personalive.errors import OutputError
from personalive.evaluation import plots
from personalive.evaluation.ablations import MEASURES, TITLES
from personalive.evaluation.page import heading, note, table
from personalive.evaluation.plots import number
from personalive.evaluation.report import Row, provenance, write_json
from personalive.evaluation.variants import VariantFigures, paper
from personalive.evaluation.variants import table as markdown


def write_comparison(folder: Path, found: Sequence[VariantFigures]) -> str:
    """variants.json, .csv, .md and .html in `folder`; the Markdown table. Raises OutputError."""
    source = provenance(", ".join(figures.name for figures in found))
    rows = [Row(v.name, TITLES[m], v.estimate(m), higher=higher) for v in found for m, (_, higher) in MEASURES.items()]
    text = markdown(found)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "variants.json", rows, source, {"variants": list(found)})
        with (folder / "variants.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["variant", "portrait", "driver", *TITLES.values(), "frames per second"])
            for variant in found:
                for case in variant.cases:
                    values = [getattr(case, name) for name in MEASURES]
                    cells = ["" if math.isnan(value) else f"{value:.6g}" for value in (*values, variant.speed)]
                    writer.writerow([variant.name, case.portrait, case.driver, *cells])
        (folder / "variants.md").write_text(f"{text}\n", "utf-8")
        (folder / "variants.html").write_text(page(found, source), "utf-8")
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({error.strerror}); name another folder") from error
    return text


def page(found: Sequence[VariantFigures], source: dict[str, str]) -> str:
    """A table, speed against each measure, and each variant's crossings as dots."""
    head = ["variant", "frames/s"]
    for name, (theirs, higher) in MEASURES.items():
        head += [f"{TITLES[name]} {'↑' if higher else '↓'}", f"paper: {theirs}"]
    lines, planes, dots = [], [], []
    for figures in found:
        published = paper(figures.name) or {}
        cells = [figures.name, number(figures.speed)]
        for name in MEASURES:
            cells += [number(figures.estimate(name).mean), number(published.get(name, math.nan))]
        lines.append(cells)
    for name, (_, higher) in MEASURES.items():
        title = f"{TITLES[name]} ({'higher' if higher else 'lower'} is better)"
        points = {v.name: (v.speed, v.estimate(name).mean) for v in found if v.speed > 0}
        known = {variant: point for variant, point in points.items() if not math.isnan(point[1])}
        if len(known) > 1:
            planes.append(plots.plane("frames per second", title, known))
        dots.append(plots.distributions(title, {v.name: (_crossings(v, name), v.estimate(name)) for v in found}))
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in source.items())
    parts = [
        heading("Variants"),
        note("Everybody driven by the next. Ours are the yardstick's figures, the paper's those of its networks and "
             "data: compare the direction of changes, not the numbers. An arrow says which way is better."),
        table(head, lines),
        f"<h2>Speed against quality</h2><div class=grid>{''.join(planes)}</div>" if planes else "",
        f"<h2>Crossings</h2><div class=grid>{''.join(dots)}</div>" if any(dots) else "",
        f"<h2>Where this comes from</h2><dl>{listed}</dl>",
    ]  # fmt: skip
    return "\n".join(parts)


def _crossings(figures: VariantFigures, measure: str) -> dict[str, float]:
    return {f"{case.portrait} by {case.driver}": getattr(case, measure) for case in figures.cases}
