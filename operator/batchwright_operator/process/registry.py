"""The registry of what runs in the operator: one line per reconciler and background task."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final

from batchwright_operator.errors import SettingsError
from batchwright_operator.kube.objects import JOB, POD, Resource
from batchwright_operator.pods.state_follower import SessionFactory
from batchwright_operator.reconcile.interfaces import Background, Reconciler
from batchwright_operator.reconcile.live_state import LiveState
from batchwright_operator.settings import Settings

# Paths, as in `Settings.reconcilers`, which replaces them in tests.
RECONCILERS: Final = (
    "batchwright_operator.processors.reconciler:AcceleratorProfileReconciler",
    "batchwright_operator.placement.reconciler:PlacementReconciler",
    "batchwright_operator.rebalance.reconciler:RebalanceReconciler",
    "batchwright_operator.deployments.reconciler:ModelDeploymentReconciler",
    "batchwright_operator.jobs.reconciler:InferenceJobReconciler",
)
"""Each is called with (settings, live)."""

BACKGROUNDS: Final = (
    "batchwright_operator.telemetry.collector:TelemetryBackground",
    "batchwright_operator.rebalance.clock:RebalanceClock",
    "batchwright_operator.deployments.follower:SidecarFollower",
    "batchwright_operator.jobs.follower:RunnerFollower",
)
"""Each is called with (settings, live, session_factory)."""


def build_reconcilers(settings: Settings, live: LiveState) -> list[Reconciler[Any]]:
    """The reconcilers, in the order in which their keys are first queued."""
    return [_load(path)(settings, live) for path in settings.reconcilers or RECONCILERS]


def build_backgrounds(settings: Settings, live: LiveState, session_factory: SessionFactory) -> list[Background]:
    """The background tasks. Without those of the product where a test names its own reconcilers."""
    paths = settings.backgrounds
    if paths is None:
        paths = [] if settings.reconcilers else list(BACKGROUNDS)
    return [_load(path)(settings, live, session_factory) for path in paths]


def namespaces_of(settings: Settings, resource: Resource) -> list[str]:
    """Where this resource is watched; "" is everywhere. Beside the namespaces of users there are Jobs of benchmarks in
    the operator's own, and their pods, and those of agents in theirs."""
    if not settings.watch_namespaces or not resource.namespaced:
        return [""]
    others = {JOB: [settings.operator_namespace], POD: [settings.operator_namespace, settings.agent_namespace]}
    return list(dict.fromkeys([*settings.watch_namespaces, *others.get(resource, ())]))


def _load(path: str) -> Callable[..., Any]:
    module, _, name = path.partition(":")
    try:
        loaded = getattr(importlib.import_module(module), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise SettingsError(f"`{path}` cannot be loaded: {error}; write `module:Class`") from error
    if not callable(loaded):
        raise SettingsError(f"`{path}` is not a class; write `module:Class`")
    return loaded  # type: ignore[no-any-return]
