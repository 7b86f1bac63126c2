"""The commands: build, up, load-image, add-volumes, status, kubectl, down, image build."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from e2e.cluster import teardown
from e2e.cluster.build import components, images
from e2e.cluster.cluster import Cluster
from e2e.cluster.machine.errors import ClusterError, NotFoundError
from e2e.cluster.machine.progress import say
from e2e.cluster.spec import ClusterSpec, NodeSpec

_DEFAULT_NODES = ("fast=1.0", "slow=0.5")
_FILE = click.Path(path_type=Path, dir_okay=False)


class _Group(click.Group):
    """Errors of the cluster are told in a line or two, without a trace."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ClusterError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """A real Kubernetes on this machine: control plane, nodes of given speeds, cluster DNS, shared volumes."""


def _name_option(command: Callable[..., Any]) -> Callable[..., Any]:
    option = click.option(
        "--name",
        default="batchwright",
        envvar="BATCHWRIGHT_CLUSTER",
        show_envvar=True,
        show_default=True,
        help="The cluster's name.",
    )
    return option(command)


@main.command()
@click.option("--component", "names", multiple=True, type=click.Choice(sorted(components.CATALOGUE)), help="Only this.")
def build(names: tuple[str, ...]) -> None:
    """Compile the cluster's programs into the cache; what is there already is not built again."""
    components.ensure_built(names or None)
    for component in components.CATALOGUE.values():
        if component.built:
            click.echo(f"{component.name}: {component.folder}")


@main.command()
@_name_option
@click.option("--node", "nodes", multiple=True, metavar="NAME=CORES", help="A node; repeat for more. [fast=1 slow=0.5]")
@click.option("--emulated", multiple=True, metavar="NODE=COUNT", help="Give a node emulated accelerators.")
@click.option("--memory-gib", default=4.0, show_default=True, help="Memory for pods on each node.")
@click.option("--kwok-nodes", default=0, show_default=True, help="Add simulated nodes.")
@click.option("--volumes", default=16, show_default=True, help="How many ReadWriteMany volumes to make.")
@click.option("--audit-log", is_flag=True, help="Log every write to the API server.")
@click.option("--kubeconfig", type=_FILE, help="Copy the kubeconfig there.")
def up(name: str, nodes: tuple[str, ...], emulated: tuple[str, ...], memory_gib: float, **rest: Any) -> None:
    """Start a cluster, or find that it is up; prints the path of its kubeconfig."""
    kubeconfig: Path | None = rest.pop("kubeconfig")
    devices = {node: int(count) for node, count in map(_pair, emulated)}
    cpus = dict(map(_pair, nodes or _DEFAULT_NODES))
    if unknown := set(devices) - set(cpus):
        raise click.UsageError(f"--emulated names {', '.join(sorted(unknown))}, which is no --node")
    memory = int(memory_gib * (1 << 30))
    specs = (
        NodeSpec(name=node, cpus=cores, memory_bytes=memory, emulated=devices.get(node, 0))
        for node, cores in cpus.items()
    )
    cluster = Cluster.up(ClusterSpec(name=name, nodes=tuple(specs), **rest))
    if kubeconfig:
        shutil.copy2(cluster.kubeconfig, kubeconfig)
    click.echo(kubeconfig or cluster.kubeconfig)


def _pair(text: str) -> tuple[str, float]:
    key, _, value = text.partition("=")
    try:
        return key, float(value)
    except ValueError:
        raise click.UsageError(f"{text!r} is not NAME=NUMBER, as in fast=1.0") from None


@main.command("load-image")
@_name_option
@click.option("--node", "only", multiple=True, help="Only into this node; repeat for more.")
@click.argument("archives", nargs=-1, required=True, type=_FILE)
def load_image(name: str, only: tuple[str, ...], archives: tuple[Path, ...]) -> None:
    """Import OCI archives into the nodes that have not got them."""
    Cluster.attach(name).load_image(*archives, only=only)


@main.command("add-volumes")
@_name_option
@click.argument("count", type=int)
def add_volumes(name: str, count: int) -> None:
    """Make more ReadWriteMany volumes of the storage class batchwright-shared."""
    Cluster.attach(name).add_volumes(count)


@main.command()
def status() -> None:
    """List the clusters of this machine."""
    for name in sorted(teardown.known_clusters()):
        click.echo(f"{name}: {_state(name)}")


def _state(name: str) -> str:
    try:
        cluster = Cluster.attach(name)
    except NotFoundError:
        return f"remains only; remove them with: python -m e2e.cluster down --name {name}"
    nodes = ", ".join(
        f"{node.name} ({node.spec.cpus} cores{'' if node.alive else ', dead'})" for node in cluster.nodes.values()
    )
    return f"{'up' if cluster.alive else 'broken'}; nodes {nodes}; kubeconfig {cluster.kubeconfig}"


@main.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@_name_option
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def kubectl(name: str, arguments: tuple[str, ...]) -> None:
    """Run kubectl on a cluster: python -m e2e.cluster kubectl -- get pods."""
    program = components.kubectl_path()
    config = Cluster.attach(name).kubeconfig
    sys.stdout.flush()
    os.execv(program, [str(program), f"--kubeconfig={config}", *arguments])  # noqa: S606


@main.command()
@_name_option
@click.option("--all", "everything", is_flag=True, help="Every cluster of this machine.")
def down(name: str, everything: bool) -> None:
    """Take a cluster away: its processes, namespaces, interfaces, mounts, cgroups and files."""
    names = sorted(teardown.known_clusters()) if everything else [name]
    for each in names:
        teardown.remove_cluster(each)
        say(f"cluster {each} is gone")


@main.group()
def image() -> None:
    """Images without a registry."""


@image.command("build")
@click.option("--name", required=True, help="The image's full name, as in localhost/batchwright/worker:dev.")
@click.option("--file", "dockerfile", required=True, type=_FILE, help="The Dockerfile.")
@click.option("--input", "inputs", multiple=True, help="A file or folder of CONTEXT that goes in; repeat. [all]")
@click.option("--build-arg", "arguments", multiple=True, metavar="KEY=VALUE", help="BASE is given.")
@click.argument("context", type=click.Path(path_type=Path, file_okay=False))
def image_build(
    name: str, dockerfile: Path, inputs: tuple[str, ...], arguments: tuple[str, ...], context: Path
) -> None:
    """Build an image from a Dockerfile; prints the path of its OCI archive."""
    build_args = dict(argument.split("=", 1) for argument in arguments)
    archive = images.build_image(
        name, dockerfile=dockerfile, context=context, inputs=inputs or None, build_args=build_args
    )
    click.echo(archive)


@image.command("base")
def image_base() -> None:
    """Make the base image (Debian with Python); prints its name."""
    click.echo(images.build_base())
