"""`batchwright-worker layerwise`: several models on one accelerator, layer by layer (method C)."""

from __future__ import annotations

from typing import Final

import click

from batchwright_worker.roles import Role, RoleGroup

COMMANDS: Final = {
    "schedule": Role(
        target="batchwright_worker.layerwise.tools.schedule:command",
        help="Schedule one instance from a file and print where every layer lies.",
    ),
    "simulate": Role(
        target="batchwright_worker.layerwise.tools.simulate:simulate",
        help="Throughput of 16 pairs of networks on an NPU model, beside the baselines and the bound.",
    ),
    "profile": Role(
        target="batchwright_worker.layerwise.tools.streams:profile",
        help="Cut real networks into units and measure them on this machine.",
    ),
    "run": Role(
        target="batchwright_worker.layerwise.tools.streams:run",
        help="Run real networks from files within a budget, and compare with the other ways.",
    ),
    "trace": Role(
        target="batchwright_worker.layerwise.tools.streams:trace",
        help="The same, and write what ran when for Perfetto.",
    ),
    "ablate": Role(
        target="batchwright_worker.layerwise.tools.simulate:ablate",
        help="What each part of the rule is worth: guard, N, tie-break, theta, prefetch, budget.",
    ),
}


@click.group(cls=RoleGroup, roles=COMMANDS, extra="lab")
def command() -> None:
    """Several models on one accelerator, layer by layer: whose layer next leaves neither engine idle?"""
