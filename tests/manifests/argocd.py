"""Argo CD's scripts for health and actions, in a Lua as bare as Argo's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from lupa import lua51

FOLDER = Path(__file__).resolve().parents[2] / "manifests" / "argocd"


def argo_health(kind: str, document: dict[str, Any]) -> dict[str, str]:
    """What the script of this kind says of an object."""
    return dict(_run((FOLDER / kind / "health.lua").read_text(), document))


def argo_actions(kind: str, document: dict[str, Any]) -> dict[str, bool]:
    """Each action of this kind: whether it is offered for an object."""
    found = _run(_actions(kind)["discovery.lua"], document)
    return {name: not each["disabled"] for name, each in found.items()}


def argo_act(kind: str, action: str, document: dict[str, Any]) -> dict[str, Any]:
    """The object as the action would have it."""
    (script,) = [each["action.lua"] for each in _actions(kind)["definitions"] if each["name"] == action]
    return dict(_run(script, document))


def _actions(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / kind / "actions.yaml").read_text())
    return found


def _run(script: str, document: dict[str, Any]) -> Any:
    runtime = lua51.LuaRuntime(register_eval=False, register_builtins=False)
    runtime.globals().obj = _as_lua(runtime, document)
    return _as_python(runtime.execute(script))


def _as_python(value: Any) -> Any:
    """A mapping for a table with names, a list for one with numbers."""
    if lua51.lua_type(value) != "table":
        return value
    items = {key: _as_python(each) for key, each in value.items()}
    return list(items.values()) if items and all(isinstance(key, int) for key in items) else items


def _as_lua(runtime: Any, value: Any) -> Any:
    """A table for a mapping or a list (from 1), anything else as it is."""
    if isinstance(value, dict):
        return runtime.table_from({key: _as_lua(runtime, each) for key, each in value.items()})
    if isinstance(value, list):
        return runtime.table_from([_as_lua(runtime, each) for each in value])
    return value
