"""The dashboard: a real Prometheus scrapes a real server, and no query of any panel comes back empty."""

from __future__ import annotations

import json
import math
import re
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
import yaml
from prometheus_client.parser import text_string_to_metric_families

from fakes.engine import FakeEngine
from support.certificates import Clients
from support.house import PLAIN, House, until
from support.ports import free_port
from support.receivers import Collector
from support.tokens import claims, issuer, rsa, signed

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "deploy" / "grafana" / "vestry.json"
SCRAPE = ROOT / "deploy" / "prometheus" / "prometheus.yml"
REFERENCE = ROOT / "docs" / "reference" / "metrics.md"

METRIC = re.compile(r"\b(?:vestry|process|python)_[a-z_]+\b")
LABEL_VALUES = re.compile(r"label_values\((\w+), (\w+)\)")
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)
HELLO = {"model": "small", "messages": [{"role": "user", "content": "Hello"}]}


@dataclass(frozen=True)
class Scraped:
    """A server under traffic that a Prometheus has scraped for a while."""

    prometheus: str
    exposition: str

    def ask(self, path: str, **parameters: str) -> Any:
        """What Prometheus answers."""
        answer = httpx.get(f"{self.prometheus}/api/v1/{path}", params=parameters, timeout=10, verify=PLAIN)
        assert answer.status_code == 200, f"{parameters}: {answer.text}"
        return answer.json()["data"]

    def values(self, query: str) -> list[float]:
        """The present value of each series of a query."""
        return [float(series["value"][1]) for series in self.ask("query", query=query)["result"]]


TOKEN_KEY = rsa("dashboard")


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    """A server over TLS with three replicas, one of them dead and one that fails, and Prometheus beside it."""
    folder = tmp_path_factory.mktemp("dashboard")
    authority = trustme.CA()
    files = _certificate(authority, folder)
    with ExitStack() as stack, FakeEngine() as good, FakeEngine() as failing, FakeEngine() as dead:
        failing.behave(status=500)
        (folder / "vault").mkdir()
        copies = [{"kind": "directory", "name": "vault", "path": str(folder / "vault")}]
        collector = stack.enter_context(Collector())
        exports = [{"name": "siem", "url": collector.url}]
        audit = {"copies": copies, "exports": exports, "checkpoint_seconds": 1}
        house = House(
            folder / "state",
            [good, failing, dead],
            server={"tls": files},
            relay={"retry_budget": 1.0},
            audit=audit,
            identity={"issuers": [issuer(folder, TOKEN_KEY)]},
        )
        with house, _prometheus(folder, house.ops) as prometheus, _traffic(house, authority, dead):
            found = Scraped(prometheus, "")
            house.checkpoint()
            until(lambda: found.values("vestry_audit_copy_records > 0"), what="a checkpoint outside")
            until(lambda: found.values("vestry_upstream_retries_total"), what="the first retry")
            until(lambda: found.values("vestry_audit_copy_timestamp_seconds > 0"), what="the first checkpoint outside")
            until(lambda: min(found.values("count_over_time(vestry_upstream_retries_total[1m])")) >= 3, what="scrapes")
            yield Scraped(prometheus, house.metrics())


def _certificate(authority: trustme.CA, folder: Path) -> dict[str, str]:
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(folder / "certificate.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    clients = Clients()
    (folder / "clients.pem").write_bytes(clients.pem)
    (folder / "revoked.pem").write_bytes(clients.revoked())
    names = {"certificate": "certificate", "key": "key", "client_ca": "clients", "client_crl": "revoked"}
    files = {field: str(folder / f"{name}.pem") for field, name in names.items()}
    return {**files, "client_certificates": "optional"}


@contextmanager
def _prometheus(folder: Path, ops: str) -> Iterator[str]:
    """The scrape configuration of `deploy/`, pointed at this server and quicker."""
    binary = shutil.which("prometheus")
    assert binary, "prometheus is not installed: apt-get install the packages of deploy/test-packages.txt"
    configuration = yaml.safe_load(SCRAPE.read_text())
    # The timeout is for a busy machine: a scrape that takes longer ends all series until the next one.
    configuration["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s"}
    (job,) = configuration["scrape_configs"]
    job["static_configs"] = [{"targets": [ops.removeprefix("http://")]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    address = f"127.0.0.1:{free_port()}"
    command = [binary, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'series'}",
               f"--web.listen-address={address}", "--log.level=warn"]  # fmt: skip
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until(lambda: _ready(f"http://{address}"), what="Prometheus")
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(10)


def _ready(prometheus: str) -> bool:
    try:
        return httpx.get(f"{prometheus}/-/ready", timeout=2, verify=PLAIN).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def _traffic(house: House, authority: trustme.CA, dead: FakeEngine) -> Iterator[None]:
    """Calls of every kind, again and again; one of the three replicas dies after a while."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    key = {"authorization": f"Bearer {house.key}"}
    over = threading.Event()

    def talk() -> None:
        with httpx.Client(base_url=house.url, verify=context, timeout=10) as client:
            turn = 0
            while not over.wait(0.02):
                turn += 1
                client.post("/v1/chat/completions", headers=key, json=HELLO)
                client.post("/v1/chat/completions", headers=key, json=HELLO | {"stream": True})
                client.post("/v1/chat/completions", headers=key, json=HELLO | {"api_base": "http://elsewhere"})
                client.post("/v1/chat/completions", headers={"authorization": "Bearer vst_wrong"}, json=HELLO)
                token = signed(TOKEN_KEY, claims(jti=str(turn)))
                client.get("/v1/models", headers={"authorization": f"Bearer {token}"})
                client.get("/v1/models", headers={**key, "x-long": "x" * 40_000})
                if turn == 5:
                    dead.stop()

    thread = threading.Thread(target=talk, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(15)


def _panels() -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return [panel for panel in panels if panel["type"] != "row"]


def _expressions() -> list[tuple[str, str]]:
    """Title and expression of every query of every panel."""
    return [(panel["title"], target["expr"]) for panel in _panels() for target in panel["targets"]]


def _choices(scraped: Scraped) -> dict[str, str]:
    """What each variable of the dashboard stands for when "All" is chosen."""
    found = {"__rate_interval": "10s"}
    for variable in json.loads(DASHBOARD.read_text())["templating"]["list"]:
        if variable["type"] != "query":
            continue
        query = LABEL_VALUES.fullmatch(variable["query"]["query"])
        assert query, variable["name"]
        values = scraped.ask(f"label/{query[2]}/values", **{"match[]": query[1]})
        assert values, f"the variable {variable['name']} has nothing to choose from"
        found[variable["name"]] = variable["allValue"] or f"({'|'.join(re.escape(value) for value in values)})"
    return found


def _filled(expression: str, choices: dict[str, str]) -> str:
    return re.sub(r"\$(\w+)", lambda match: choices[match[1]].replace("\\", "\\\\"), expression)


def _documented() -> dict[str, tuple[str, frozenset[str]]]:
    """Type and labels of each metric in the reference."""
    return {
        name: (kind, frozenset(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels, _, _ in ROW.findall(REFERENCE.read_text())
    }


def _base(metric: str) -> str:
    """The name under which the reference has a histogram's series."""
    return re.sub(r"_(bucket|sum|count)$", "", metric)


def test_no_panel_is_empty(scraped: Scraped) -> None:
    """Every query of every panel, asked of a Prometheus that scrapes a server at work, gives a number."""
    choices = _choices(scraped)
    empty = [
        f"{title}: {expression}"
        for title, expression in _expressions()
        if not any(math.isfinite(value) for value in scraped.values(_filled(expression, choices)))
    ]
    assert empty == []


def test_the_figures_are_those_of_the_traffic(scraped: Scraped) -> None:
    """The panels show what happened: refusals, retries, a dead replica and a certificate that is still valid."""
    choices = _choices(scraped)
    shown = {title: _filled(expression, choices) for title, expression in reversed(_expressions())}  # its first query
    for title in ("Refusals by cause", "Refused at the door", "Second tries", "Records", "Growth of the log"):
        assert max(scraped.values(shown[title])) > 0, title
    assert 0 < scraped.values(shown["Replicas in service"])[0] < 1
    assert 0 in scraped.values(shown["Replicas, one by one"])
    assert scraped.values(shown["Record"]) == [1]
    assert scraped.values(shown["Certificate expires in"])[0] > 0
    assert 0 < scraped.values(shown["Revocation list ends in"])[0] < 86_401


def test_the_dashboard_is_what_its_code_writes(tmp_path: Path) -> None:
    """`vestry.json` is in step with `dashboard.py` and `panels.py`."""
    written = tmp_path / "vestry.json"
    command = [sys.executable, "-m", "deploy.grafana.dashboard", str(written)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=30)
    assert written.read_text() == DASHBOARD.read_text(), "run `python -m deploy.grafana.dashboard`"


def test_every_panel_says_what_it_shows() -> None:
    """Each panel has a title of its own, a description, a unit, queries and a source that can be chosen."""
    panels = _panels()
    titles = [panel["title"] for panel in panels]
    for panel in panels:
        assert panel["title"].strip()
        assert panel["description"].strip().endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["value"] is None, panel["title"]
        assert panel["targets"], panel["title"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}, panel["title"]
    assert len(set(titles)) == len(titles)


def test_a_figure_is_that_of_now() -> None:
    """It is asked for this moment alone, so that of a server that is gone nothing is shown; lines show what was."""
    for panel in _panels():
        figure = panel["type"] == "stat"
        asked = {(target["instant"], target["range"]) for target in panel["targets"]}
        assert asked == {(figure, not figure)}, panel["title"]


def test_panels_stand_side_by_side() -> None:
    """No two panels cover the same place, none leaves the screen, and identities are unique."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        cells = {
            (column, line)
            for column in range(place["x"], place["x"] + place["w"])
            for line in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_panels_show_documented_metrics_only() -> None:
    """Every metric in a query or a variable stands in the reference."""
    text = "\n".join(expression for _, expression in _expressions())
    text += "\n".join(str(each["query"]) for each in json.loads(DASHBOARD.read_text())["templating"]["list"])
    used = {_base(name) for name in METRIC.findall(text)}
    assert used
    assert used <= set(_documented())


def test_nothing_that_happened_between_two_points_is_left_out() -> None:
    """What is counted is counted from point to point, or over more than lies between two points of a month."""
    ranges = {each for _, expression in _expressions() for each in re.findall(r"\[(.+?)\]", expression)}
    assert ranges == {"$__rate_interval", "1h"}


def test_every_metric_is_on_the_dashboard() -> None:
    """No metric of the server's own is left without a panel."""
    used = {_base(name) for _, expression in _expressions() for name in METRIC.findall(expression)}
    own = {name for name in _documented() if name.startswith("vestry_")}
    assert own - used == set()


def test_the_reference_and_the_server_agree(scraped: Scraped) -> None:
    """Name, type and labels of every metric are in the reference, and every metric there is real."""
    shown: dict[str, tuple[str, frozenset[str]]] = {}
    for family in text_string_to_metric_families(scraped.exposition):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = frozenset(label for sample in family.samples for label in sample.labels) - {"le"}
        assert family.samples, f"{name} has no series, so its labels cannot be compared"
        shown[name] = (family.type, labels)
    assert shown == _documented()


def test_prometheus_accepts_the_scrape_configuration() -> None:
    """promtool finds no fault in `deploy/prometheus/prometheus.yml`."""
    promtool = shutil.which("promtool")
    assert promtool, "promtool is not installed: apt-get install the packages of deploy/test-packages.txt"
    done = subprocess.run(
        [promtool, "check", "config", str(SCRAPE)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
