"""The parts of Grafana's classic dashboard model that our dashboard uses. Unknown fields are refused.

See https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Datasource(Part):
    type: Literal["prometheus"]
    uid: Literal["${datasource}"]


class GridPos(Part):
    h: Annotated[int, Field(ge=1)]
    w: Annotated[int, Field(ge=1, le=24)]
    x: Annotated[int, Field(ge=0, le=23)]
    y: Annotated[int, Field(ge=0)]


class Target(Part):
    refId: Annotated[str, Field(pattern="^[A-Z]$")]
    datasource: Datasource
    expr: Annotated[str, Field(min_length=1)]
    legendFormat: str
    range: bool = False
    instant: bool = False


class Threshold(Part):
    color: str
    value: float | None


class Thresholds(Part):
    mode: Literal["absolute", "percentage"]
    steps: Annotated[list[Threshold], Field(min_length=1)]


class Color(Part):
    mode: Literal["thresholds", "palette-classic", "fixed"]


class Defaults(Part):
    unit: str
    color: Color
    min: float | None = None
    max: float | None = None
    decimals: int | None = None
    thresholds: Thresholds | None = None
    custom: dict[str, Any] = {}


class FieldConfig(Part):
    defaults: Defaults
    overrides: list[Any]


class Row(Part):
    id: int
    type: Literal["row"]
    title: str
    collapsed: Literal[False]
    gridPos: GridPos
    panels: Annotated[list[Any], Field(max_length=0)]  # The panels of an open row follow it in the dashboard's list.


class Panel(Part):
    id: int
    type: Literal["timeseries", "stat"]
    title: Annotated[str, Field(min_length=1)]
    description: str
    datasource: Datasource
    gridPos: GridPos
    targets: Annotated[list[Target], Field(min_length=1)]
    fieldConfig: FieldConfig
    options: dict[str, Any]


class Variable(Part):
    name: Annotated[str, Field(pattern="^[a-z0-9_]+$")]
    label: str
    type: Literal["datasource", "custom", "textbox"]
    query: str
    current: dict[str, Any]
    options: list[dict[str, Any]]
    hide: Literal[0, 1, 2]
    skipUrlSync: bool
    regex: str = ""
    refresh: Literal[0, 1, 2] = 0
    includeAll: bool = False
    multi: bool = False
    allValue: str | None = None


class Variables(Part):
    list: list[Variable]


class Time(Part):
    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)
    begin: Annotated[str, Field(alias="from")]
    to: str


class Dashboard(Part):
    """A dashboard as a file to import, without the id of any Grafana instance."""

    id: None
    uid: Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,40}$")]
    title: Annotated[str, Field(min_length=1)]
    description: str
    tags: list[str]
    schemaVersion: Annotated[int, Field(ge=36)]
    version: int
    editable: bool
    graphTooltip: Literal[0, 1, 2]
    fiscalYearStartMonth: Annotated[int, Field(ge=0, lt=12)]
    liveNow: bool
    weekStart: str
    timezone: Literal["browser", "utc", ""]
    refresh: str
    time: Time
    timepicker: dict[str, Any]
    links: list[Any]
    annotations: dict[str, list[dict[str, Any]]]
    templating: Variables
    panels: list[Annotated[Row | Panel, Field(discriminator="type")]]
