"""`batchwright-operator run`: the operator's process."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Final

import click
import msgspec

from batchwright_operator.errors import OperatorError
from batchwright_operator.kube.credentials import find_credentials
from batchwright_operator.process.logs import LOG_FORMATS, start_logging
from batchwright_operator.process.operator import Options, run_operator
from batchwright_operator.settings import load_settings
from batchwright_worker.api.names import OPERATOR_METRICS_PORT

logger = logging.getLogger("batchwright_operator")

SWITCH_S: Final = 0.001
"""How long a thread that computes (kopf, a decision on thousands of replicas) keeps the interpreter from the event loop
that needs it again after each of its waits. Python's own five milliseconds are felt: a gate takes several of them."""

if importlib.util.find_spec("kopf") is None:
    # Its own thread loads it (`kopf_watch`), much later, and would only say so again and again.
    raise ModuleNotFoundError("No module named 'kopf'", name="kopf")


@click.command(
    epilog="\b\nExamples:\n"
    "  batchwright-operator run --settings settings.yaml\n"
    "  batchwright-operator run --dev --kubeconfig ~/.kube/config\n\n"
    "Exit status: 0 after SIGTERM; 1 with a sentence where it cannot begin; 2 for a wrong command line.",
)
@click.option("--namespace", envvar="POD_NAMESPACE", help="Where the Lease and the control key are.")
@click.option("--kubeconfig", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Else: the pod's own.")
@click.option("--context", help="Context of the kubeconfig.")
@click.option(
    "--settings",
    "settings_file",
    type=click.Path(path_type=Path),
    help="YAML; manifests/base/settings.yaml has some, the chart's values.schema.json all.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    default=OPERATOR_METRICS_PORT,
    show_default=True,
    help="Of /metrics and probes; 0: any free one.",
)
@click.option(
    "--log-format",
    type=click.Choice(LOG_FORMATS),
    default="text",
    show_default=True,
    help="Lines for people, or JSON for collectors.",
)
@click.option("--verbose", "-v", is_flag=True, help="Log details.")
@click.option("--dev", is_flag=True, help="Lead at once, without a Lease: for one process on a cluster of your own.")
def run(  # noqa: PLR0913, PLR0917 - one parameter per option
    namespace: str | None,
    kubeconfig: Path | None,
    context: str | None,
    settings_file: Path | None,
    metrics_port: int,
    log_format: str,
    verbose: bool,
    dev: bool,
) -> None:
    """Run the operator until SIGTERM."""
    start_logging(log_format, verbose=verbose)
    try:
        settings = load_settings(settings_file, os.environ)
        if namespace:
            settings = msgspec.structs.replace(settings, operator_namespace=namespace)
        pod = os.environ.get("POD_NAME", "")
        options = Options(namespace=settings.operator_namespace, metrics_port=metrics_port, pod=pod, elect=not dev)
        credentials = find_credentials(kubeconfig, context)
        sys.setswitchinterval(SWITCH_S)
        asyncio.run(run_operator(settings, options, credentials, stop_signal))
    except* OperatorError as errors:
        raise click.ClickException("; ".join(_texts(errors))) from errors


def _texts(error: BaseException) -> list[str]:
    if isinstance(error, BaseExceptionGroup):
        return [text for one in error.exceptions for text in _texts(one)]
    return [str(error)]


async def stop_signal() -> None:
    """Returns at SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()
    logger.info("stopping")
