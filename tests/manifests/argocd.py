"""Argo CD's health scripts, in a Lua as bare as Argo's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lupa import lua51

FOLDER = Path(__file__).resolve().parents[2] / "manifests" / "argocd"


def argo_health(kind: str, document: dict[str, Any]) -> dict[str, str]:
    """What the script of this kind says of an object."""
    runtime = lua51.LuaRuntime(register_eval=False, register_builtins=False)
    runtime.globals().obj = _as_lua(runtime, document)
    return dict(runtime.execute((FOLDER / kind / "health.lua").read_text()))


def _as_lua(runtime: Any, value: Any) -> Any:
    """A table for a mapping or a list (from 1), anything else as it is."""
    if isinstance(value, dict):
        return runtime.table_from({key: _as_lua(runtime, each) for key, each in value.items()})
    if isinstance(value, list):
        return runtime.table_from([_as_lua(runtime, each) for each in value])
    return value
