"""`batchwright-worker`: one command per role; a role's modules are imported only when it is asked for."""

from __future__ import annotations

from typing import Final

import click

from batchwright_worker.roles import Role, RoleGroup

ROLES: Final = {
    "sidecar": Role(
        target="batchwright_worker.sidecar.command:command",
        help="Serve the models of a pod: protocol, queues, batching (in a model pod).",
    ),
    "runtime": Role(
        target="batchwright_worker.runtime.command:command",
        help="Hold models on one device and run batches (in a model pod).",
    ),
    "runner": Role(
        target="batchwright_worker.runner.command:command",
        help="Plan, run or commit an InferenceJob (in its pods).",
    ),
    "benchmark": Role(
        target="batchwright_worker.benchmark.command:command",
        help="Measure the load table of a processor on this machine.",
    ),
    "agent": Role(
        target="batchwright_worker.agent.command:command",
        help="Export utilization of this node's processors as Prometheus metrics.",
    ),
    "fetch": Role(
        target="batchwright_worker.fetch.command:command",
        help="Download and verify the artifacts of a ModelDeployment.",
    ),
    "digest": Role(
        target="batchwright_worker.artifacts.command:command",
        help="Print the digest of a model file or folder.",
    ),
    "layerwise": Role(
        target="batchwright_worker.layerwise.tools.command:command",
        help="Schedule several models layer by layer on one accelerator.",
    ),
    "serve": Role(
        target="batchwright_worker.local.serve:command",
        help="Run a ModelDeployment on this machine, without a cluster.",
    ),
    "repository": Role(
        target="batchwright_worker.local.triton_repository:command",
        help="Print the ModelDeployment that serves a Triton model repository.",
    ),
    "replay": Role(
        target="batchwright_worker.local.replay:command",
        help="Repeat the decisions of a dispatch log, and say what happened in it.",
    ),
    "run": Role(
        target="batchwright_worker.local.run:command",
        help="Run an InferenceJob on this machine, without a cluster.",
    ),
    "status": Role(
        target="batchwright_worker.local.status:command",
        help="Say what lies in the output of an InferenceJob: complete or not, items, failures, models, code.",
    ),
    "functions": Role(
        target="batchwright_worker.runner.cpu.catalogue:command",
        help="List the built-in functions of CPU tasks, with arguments and examples.",
    ),
}


@click.group(cls=RoleGroup, roles=ROLES, extra="worker", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="batchwright")
def main() -> None:
    """Batchwright's worker: everything that runs beside models, and the same without a cluster.

    On a machine of yours begin with `serve` and `run`; sidecar, runtime, runner, agent and fetch are for pods.
    `batchwright-worker COMMAND --help` has examples and exit statuses.
    """


if __name__ == "__main__":
    main()
