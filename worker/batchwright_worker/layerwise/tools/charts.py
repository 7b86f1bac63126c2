"""Pictures: both engines over time, system throughput as bars. Needs matplotlib (extra `plot`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from batchwright_worker.layerwise.execution.jobs import UnitRecord
from batchwright_worker.layerwise.tools.instance import PlacedLayer

__all__ = ["draw_bars", "draw_engines", "draw_records"]


def draw_engines(layers: Sequence[PlacedLayer], path: Path) -> None:
    """A Gantt chart: fetches above, computes below, one colour per model; the number is the layer's."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(12, 3), layout="constrained")
    models = list(dict.fromkeys(layer.model for layer in layers))
    colours = {model: f"C{number % 10}" for number, model in enumerate(models)}
    few = len(layers) <= 60
    for layer in layers:
        spans = ((1, layer.fetch_start, layer.fetch_end), (0, layer.compute_start, layer.compute_end))
        for row, start, end in spans:
            colour = colours[layer.model]
            axes.barh(row, end - start, left=start, height=0.8, color=colour, edgecolor="white", linewidth=0.5)
            if few and end > start:
                axes.text((start + end) / 2, row, str(layer.layer), ha="center", va="center", color="white")
    axes.set_yticks([0, 1], ["compute", "memory"])
    axes.set_xlabel("time")
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=colour) for colour in colours.values()]
    axes.legend(handles, list(colours), loc="upper left", bbox_to_anchor=(1, 1))
    _save(figure, path)


def draw_records(runs: Mapping[str, Sequence[UnitRecord]], path: Path) -> None:
    """The same of units as they ran, one chart below the other on one time axis."""
    pyplot = _pyplot()
    figure, panels = pyplot.subplots(
        len(runs), 1, figsize=(12, 2 * len(runs)), layout="constrained", sharex=True, squeeze=False
    )
    models = list(dict.fromkeys(record.model for records in runs.values() for record in records))
    colours = {model: f"C{number % 10}" for number, model in enumerate(models)}
    for (name, records), axes in zip(runs.items(), panels[:, 0], strict=True):
        origin = min(record.arrival for record in records)
        for row, start, end in ((1, "fetch_start", "fetch_end"), (0, "compute_start", "compute_end")):
            starts = [getattr(record, start) - origin for record in records]
            widths = [getattr(record, end) - getattr(record, start) for record in records]
            axes.barh(row, widths, left=starts, height=0.8, color=[colours[record.model] for record in records])
        axes.set_yticks([0, 1], ["compute", "memory"])
        axes.set_title(name, loc="left")
    panels[-1, 0].set_xlabel("seconds")
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=colour) for colour in colours.values()]
    panels[0, 0].legend(handles, list(colours), loc="upper left", bbox_to_anchor=(1, 1))
    _save(figure, path)


def draw_bars(rows: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Groups of bars: for every row (a pair of networks) one bar per column (a policy); 1.0 is one model at a time."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(14, 5), layout="constrained")
    columns = list(next(iter(rows.values())))
    width = 0.8 / len(columns)
    for number, column in enumerate(columns):
        places = [place + number * width for place in range(len(rows))]
        axes.bar(places, [row[column] for row in rows.values()], width=width, label=column)
    axes.set_xticks([place + 0.4 - width / 2 for place in range(len(rows))], list(rows), rotation=40, ha="right")
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_ylabel("system throughput over one at a time")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    _save(figure, path)


def _pyplot() -> Any:
    """matplotlib without a screen. Raises ClickException where it is not installed."""
    try:
        import matplotlib as mpl
    except ModuleNotFoundError as error:
        raise click.ClickException("pictures need matplotlib: pip install 'batchwright[plot]'") from error
    mpl.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path) -> None:
    try:
        figure.savefig(path)
    except (ValueError, OSError) as error:
        raise click.ClickException(f"{path} cannot be written: {error}") from error
