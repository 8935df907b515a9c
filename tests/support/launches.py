"""How the program itself would start an engine: what chart and compose file are compared with."""

from __future__ import annotations

from pathlib import Path

from support.engines import install_engine
from vestry.models import launch
from vestry.models.catalog import Device
from vestry.models.chosen import choose
from vestry.settings.tree import Settings

OWN_VARIABLES = {"USER"}


def planned(
    settings: Settings, model: str, device: Device, folder: Path, *, host: str
) -> tuple[list[str], dict[str, str]]:
    """Arguments for Python, and environment without key and PATH, that `vestry engine` would give to this model on
    a machine that it does not know.

    As if the engine's environment and the model's files were there, which are made under `folder`; in the result
    they stand where containers have them, in /model, /cache and /guard. The engine listens on `host`, port 8000.
    """
    state, weights = folder / "state", folder / "weights"
    installed = install_engine(state, device=device)
    weights.mkdir(exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        (weights / name).write_text("{}")
    wanted = settings.models[model]
    engine = wanted.engine.model_copy(update={"host": host, "port": 8000})
    changed = {model: wanted.model_copy(update={"path": weights, "engine": engine})}
    here = settings.model_copy(update={"state": state, "models": changed})
    plan = launch.plan(here, choose(here, model), "the-key", {}, elsewhere=True)
    places = {str(weights): "/model", str(installed.cache): "/cache", str(launch.GUARD): "/guard"}
    variables = {name: text for name, text in plan.environment.items() if name not in {"PATH", launch.KEY}}
    return [_moved(each, places) for each in plan.argv[1:]], {
        name: _moved(text, places) for name, text in variables.items()
    }


def _moved(text: str, places: dict[str, str]) -> str:
    for here, there in places.items():
        text = text.replace(here, there)
    return text
