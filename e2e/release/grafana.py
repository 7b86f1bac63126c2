"""A board of Grafana from its panels, by Grafana's own SDK."""

from __future__ import annotations

from dataclasses import dataclass

from grafana_foundation_sdk.builders import dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef, GridPos, VariableRefresh

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH, HEIGHT, COLUMNS = 8, 7, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A panel: its queries by their legends. `is_number`: the newest value instead of a curve."""

    title: str
    about: str
    unit: str
    queries: dict[str, str]
    is_number: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A board; each variable is a label, and the metric whose values it takes."""

    name: str
    title: str
    variables: dict[str, str]
    panels: tuple[Panel, ...]


def written(board: Board) -> str:
    """The board as Grafana imports it."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(f"batchwright-{board.name}")
        .tags(["batchwright"])
        .refresh("30s")
        .time("now-1h", "now")
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    known: list[str] = []
    for name, metric in board.variables.items():
        within = ",".join(f'{each}=~"${each}"' for each in known)
        query = f"label_values({metric}{{{within}}}, {name})" if within else f"label_values({metric}, {name})"
        variable = dashboard.QueryVariable(name).datasource(SOURCE).query(query).multi(True).include_all(True)
        made = made.with_variable(variable.all_value(".*").refresh(VariableRefresh.ON_TIME_RANGE_CHANGED))
        known.append(name)
    for number, panel in enumerate(board.panels):
        made = made.with_panel(_panel(panel, number))
    return JSONEncoder(sort_keys=True, indent=1).encode(made.build()) + "\n"


def _panel(panel: Panel, number: int) -> stat.Panel | timeseries.Panel:
    at = GridPos(x=number % COLUMNS * WIDTH, y=number // COLUMNS * HEIGHT, w=WIDTH, h=HEIGHT)
    made = stat.Panel() if panel.is_number else timeseries.Panel().fill_opacity(8).span_nulls(True)
    made = made.title(panel.title).description(panel.about).unit(panel.unit).datasource(SOURCE).grid_pos(at)
    for letter, (legend, query) in zip("ABCDEFGH", panel.queries.items(), strict=False):
        made = made.with_target(prometheus.Dataquery().expr(query).legend_format(legend or "__auto").ref_id(letter))
    return made
