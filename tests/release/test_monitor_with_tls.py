"""A Prometheus with the TLS settings of `examples/monitoring/podmonitor-tls.yaml` reads a served model's metrics;
without its certificate, or for another name, it reads none."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from e2e.cluster.machine.ports import free_port
from e2e.debian import program
from tests.protocol.serving import emulated_model, manifest, serving
from tests.release.test_alerts import ROOT

pytestmark = pytest.mark.slow
NAME = "ocr.models.svc"


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders named as the Secrets of the example, and `server` for what the sidecar has."""
    folder = tmp_path_factory.mktemp("secrets")
    authority = trustme.CA()
    for name in ("ocr-tls", "prometheus-tls"):
        (folder / name).mkdir()
        authority.cert_pem.write_to_path(folder / name / "ca.crt")
        pair = authority.issue_cert(NAME if name == "ocr-tls" else "prometheus.monitoring.svc")
        pair.private_key_pem.write_to_path(folder / name / "tls.key")
        for number, blob in enumerate(pair.cert_chain_pems):
            blob.write_to_path(folder / name / "tls.crt", append=number > 0)
    return folder


def scraped(endpoint: dict[str, Any], secrets: Path, port: int) -> dict[str, Any]:
    """The scrape configuration that the Prometheus operator makes of this endpoint of a PodMonitor."""
    tls = endpoint["tlsConfig"]

    def path(key: dict[str, str]) -> str:
        return str(secrets / key["name"] / key["key"])

    made = {"server_name": tls["serverName"], "ca_file": path(tls["ca"]["secret"])}
    if "cert" in tls:
        made |= {"cert_file": path(tls["cert"]["secret"]), "key_file": path(tls["keySecret"] | {"key": "tls.key"})}
    return {"scheme": endpoint["scheme"], "tls_config": made, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}


@contextmanager
def prometheus(folder: Path, jobs: dict[str, dict[str, Any]]) -> Iterator[int]:
    """The port of one that has these scrape configurations."""
    config = {"global": {"scrape_interval": "1s"}, "scrape_configs": [{"job_name": n, **j} for n, j in jobs.items()]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [str(program("prometheus")), f"--config.file={folder / 'prometheus.yml'}"]
    command += [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "prometheus.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield port
        finally:
            process.kill()


def states(port: int, count: int) -> dict[str, str]:
    """Job -> up or down with why, once all targets were tried."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/targets", timeout=60) as said:
                found = json.load(said)["data"]["activeTargets"]
        except OSError:
            found = []
        if len(found) == count and all(each["health"] != "unknown" for each in found):
            return {each["labels"]["job"]: f"{each['health']} {each['lastError']}".strip() for each in found}
        time.sleep(0.2)
    raise AssertionError((port, found))


def test_prometheus_reads_by_tls_what_the_example_says(secrets: Path, tmp_path: Path) -> None:
    monitor = yaml.safe_load((ROOT / "examples" / "monitoring" / "podmonitor-tls.yaml").read_text())
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    unnamed = {name: each for name, each in endpoint["tlsConfig"].items() if name not in ("cert", "keySecret")}
    without = {**endpoint, "tlsConfig": unnamed}
    renamed = {**endpoint, "tlsConfig": {**endpoint["tlsConfig"], "serverName": "other.models.svc"}}
    server = secrets / "ocr-tls"
    options = ["--tls-cert", str(server / "tls.crt"), "--tls-key", str(server / "tls.key")]
    options += ["--tls-client-ca", str(secrets / "ocr-tls" / "ca.crt")]
    with serving(tmp_path, manifest("ocr", [emulated_model("m", 1.0)]), *options) as served:
        kinds = {"example": endpoint, "no certificate": without, "other name": renamed}
        jobs = {name: scraped(each, secrets, served.http) for name, each in kinds.items()}
        with prometheus(tmp_path, jobs) as port:
            found = states(port, len(jobs))
    assert found["example"] == "up"
    assert "certificate required" in found["no certificate"]
    assert f"certificate is valid for {NAME}, not other.models.svc" in found["other name"]
