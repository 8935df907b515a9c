"""The dashboard, as code: after a change of `panels.py`, run this, and `vestry.json` is written anew.

    python -m deploy.grafana.dashboard [FILE]

What is shown stands in `panels.py`; places on the screen, identities and everything else that Grafana wants are
made here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from deploy.grafana.panel import Panel
from deploy.grafana.panels import ROWS

TARGET = Path(__file__).with_name("vestry.json")
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24


def variable(name: str, label: str, query: str, everything: str | None) -> dict[str, Any]:
    """A choice at the top of the dashboard. `everything` is what "All" stands for; None: each value by name."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": everything,
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


VARIABLES = [
    {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "refresh": 1,
        "current": {},
    },
    variable("instance", "Server", "label_values(vestry_build_info, instance)", None),
    variable("tenant", "Tenant", "label_values(vestry_requests_total, tenant)", ".*"),
    variable("model", "Model", "label_values(vestry_replica_healthy, model)", ".*"),
]


def field_config(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "noValue": panel.empty,
        "color": {"mode": "thresholds" if panel.kind == "stat" else "palette-classic"},
        "thresholds": {
            "mode": "absolute",
            "steps": [{"value": value, "color": colour} for value, colour in panel.steps],
        },
        "mappings": [
            {
                "type": "value",
                "options": {value: {"index": place, "text": text, "color": colour}},
            }
            for place, (value, text, colour) in enumerate(panel.words)
        ],
    }
    if panel.lowest is not None:
        defaults["min"] = panel.lowest
    if panel.highest is not None:
        defaults["max"] = panel.highest
    if panel.decimals is not None:
        defaults["decimals"] = panel.decimals
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 20 if panel.stacked else 5,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if panel.line else "off"},
        }
    return {"defaults": defaults, "overrides": []}


def options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "stat":
        return {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "value",
            "graphMode": "none",
            "textMode": "auto",
            "justifyMode": "auto",
            "orientation": "auto",
        }
    return {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def render(panel: Panel, identity: int, place: dict[str, int]) -> dict[str, Any]:
    """One panel as Grafana wants it."""
    return {
        "id": identity,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.tells,
        "datasource": SOURCE,
        "gridPos": place,
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": SOURCE,
                "editorMode": "code",
                "expr": query.expression,
                "legendFormat": query.legend or "__auto",
                "instant": panel.kind == "stat",  # of a range Grafana shows the last figure there was, be it hours old
                "range": panel.kind != "stat",
            }
            for number, query in enumerate(panel.queries)
        ],
        "fieldConfig": field_config(panel),
        "options": options(panel),
    }


def panels() -> list[dict[str, Any]]:
    """All rows and panels, each with its place: panels fill a line from the left, then the next one."""
    found: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS:
        place = {"h": 1, "w": WIDTH, "x": 0, "y": top}
        found.append(
            {"id": len(found) + 1, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
        )
        top, left, height = top + 1, 0, 0
        for panel in row:
            if left + panel.width > WIDTH:
                top, left, height = top + height, 0, 0
            tall = 4 if panel.kind == "stat" else 8
            found.append(render(panel, len(found) + 1, {"h": tall, "w": panel.width, "x": left, "y": top}))
            left, height = left + panel.width, max(height, tall)
        top += height
    return found


def dashboard() -> dict[str, Any]:
    """The whole dashboard (Grafana 11 and later)."""
    return {
        "uid": "vestry",
        "title": "Vestry",
        "description": "Calls, latency, tokens, engines, the record and the server itself.",
        "tags": ["vestry"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": VARIABLES},
        "annotations": {"list": []},
        "links": [],
        "panels": panels(),
    }


def main(target: Path) -> None:
    target.write_text(json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET)
