"""A local S3: moto's server, in an environment of its own (`locks/peers-moto.txt`).

python -m e2e.s3_server up --port 9100 --bucket records
python -m e2e.s3_server down --port 9100
"""

from __future__ import annotations

import contextlib
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import click

from e2e import background
from e2e.cluster.machine.ports import free_port
from e2e.peers import peer_python

_START_S = 60.0


@dataclass(frozen=True, slots=True)
class S3Server:
    """Speaks S3 at `url`, to any credentials."""

    url: str

    @property
    def environment(self) -> dict[str, str]:
        """With which the product's processes reach it."""
        return {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.url,
            "BATCHWRIGHT_ALLOW_HTTP": "true",
            "BATCHWRIGHT_ALLOW_PRIVATE_ADDRESSES": "true",
        }

    def make_bucket(self, name: str) -> None:
        """Raises OSError."""
        request = urllib.request.Request(f"{self.url}/{name}", method="PUT")
        with urllib.request.urlopen(request, timeout=10):
            pass


@contextlib.contextmanager
def s3_server() -> Iterator[S3Server]:
    """Until the block ends. Raises RuntimeError if it does not start."""
    port = free_port()
    program = peer_python("moto").with_name("moto_server")
    process = subprocess.Popen([program, "-H", "127.0.0.1", "-p", str(port)], stderr=subprocess.DEVNULL)
    server = S3Server(f"http://127.0.0.1:{port}")
    try:
        _wait_for(server, process)
        yield server
    finally:
        process.terminate()
        process.wait()


def _wait_for(server: S3Server, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{server.url}/moto-api/", timeout=1):
            return
        time.sleep(0.1)
    raise RuntimeError(f"moto's S3 server did not start within {_START_S:g} s (exit status {process.poll()})")


def names(url: str, bucket: str) -> list[str]:
    """Keys of all objects in a bucket, sorted."""
    import obstore

    store = obstore.store.S3Store(
        bucket, endpoint=url, region="us-east-1", access_key_id="key", secret_access_key="secret",  # noqa: S106
        client_options={"allow_http": True},
    )  # fmt: skip
    return sorted(each["path"] for batch in obstore.list(store) for each in batch)


@click.group()
def main() -> None:
    """An S3 on this machine that keeps its objects in memory, for an hour at most."""


@main.command("up")
@click.option("--port", type=int, default=9100, show_default=True, help="Port on the loopback.")
@click.option("--bucket", "buckets", multiple=True, help="A bucket to make.")
def _up(port: int, buckets: tuple[str, ...]) -> None:
    """Start it; any credentials do."""
    program = peer_python("moto").with_name("moto_server")
    try:
        background.up([str(program), "-H", "127.0.0.1", "-p", str(port)], port)
    except background.NotStarted as error:
        raise click.ClickException(str(error)) from error
    server = S3Server(f"http://localhost:{port}")
    for bucket in buckets:
        server.make_bucket(bucket)
    click.echo(f"{server.url}: {', '.join(buckets) or 'no bucket'}")


@main.command("down")
@click.option("--port", type=int, default=9100, show_default=True)
def _down(port: int) -> None:
    """End it."""
    background.down(port)


if __name__ == "__main__":
    main()
