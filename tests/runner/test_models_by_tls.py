"""Jobs through deployments that are served by TLS: replicas are found by address and verified by the Service's name."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from batchwright_worker.api.messages import TrustedServer
from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.models.replicas import NotAccepted, ReplicaSet
from tests.runner.bench import Bench, cpu, model
from tests.runner.serving_rig import deployment, ready, replica

NAME = "emu.n.svc"


class Secret:
    """A Secret with a certificate for NAME, as it is mounted."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        authority = trustme.CA()
        issued = authority.issue_cert(NAME)
        self.ca, self.cert, self.key = (str(folder / name) for name in ("ca.crt", "tls.crt", "tls.key"))
        authority.cert_pem.write_to_path(self.ca)
        issued.cert_chain_pems[0].write_to_path(self.cert)
        issued.private_key_pem.write_to_path(self.key)

    @property
    def options(self) -> tuple[str, ...]:
        return "--tls-cert", self.cert, "--tls-key", self.key


@pytest.fixture
def secret(tmp_path: Path) -> Secret:
    return Secret(tmp_path)


async def test_a_job_goes_by_tls_where_its_deployment_does(bench: Callable[..., Bench], secret: Secret) -> None:
    async with replica(deployment(), options=secret.options) as here:
        job = bench(
            cpu("row", "sample_functions:one_row"),
            model("m", "emu", "m", "row"),
            endpoints={"emu": f"{here.host}:{here.http}"},
            tls={"emu": TrustedServer(server_name=NAME, ca_file=secret.ca)},
        )
        job.write_records([{"v": value} for value in range(20)])
        await job.run_all()
    assert job.results("m") == [value % 8 for value in range(20)]


def trusting(secret: Secret, shown: Secret | None) -> TrustedServer:
    pair = {"cert_file": shown.cert, "key_file": shown.key} if shown is not None else {}
    return TrustedServer(server_name=NAME, ca_file=secret.ca, **pair)


async def run_with(job: Bench, items: int = 20) -> None:
    job.write_records([{"v": value} for value in range(items)])
    await job.run_all()


async def test_a_job_shows_its_certificate_where_one_is_asked_for(
    bench: Callable[..., Bench], secret: Secret, tmp_path: Path
) -> None:
    """One by another authority is refused, and so is none."""
    mine, other = (Secret(folder) for folder in (tmp_path / "mine", tmp_path / "other"))
    async with replica(deployment(), options=(*secret.options, "--tls-client-ca", mine.ca)) as here:

        def job(name: str, shown: Secret | None) -> Bench:
            made = bench(
                cpu("row", "sample_functions:one_row"),
                model("m", "emu", "m", "row"),
                endpoints={"emu": f"{here.host}:{here.http}"},
                tls={"emu": trusting(secret, shown)},
            )
            made.folder = tmp_path / f"job-{name}"
            return made

        served = job("served", mine)
        await run_with(served)
        assert served.results("m") == [value % 8 for value in range(20)]
        for name, shown in (("none", None), ("other", other)):
            with pytest.raises(StepFailed, match=r"spec\.tls\.jobsSecretRef") as failed:
                await run_with(job(name, shown), 1)
            assert failed.value.reason == "CertificateRefused"


async def test_a_certificate_that_was_renewed_is_shown(secret: Secret, tmp_path: Path) -> None:
    """By the connections after the one that was refused for the old one."""
    mine, shown = (Secret(tmp_path / name) for name in ("mine", "shown"))
    async with contextlib.AsyncExitStack() as stack:
        here = await stack.enter_async_context(
            replica(deployment(), options=(*secret.options, "--tls-client-ca", mine.ca))
        )
        await ready(here)
        replicas = ReplicaSet("emu", f"{here.host}:{here.http}", trusting(secret, shown))
        stack.push_async_callback(replicas.close)
        await replicas.open()
        [only] = replicas.replicas
        with pytest.raises(NotAccepted):
            await replicas.metadata(only, "m")
        for new, old in ((mine.cert, shown.cert), (mine.key, shown.key)):
            shutil.copy(new, old)
        with pytest.raises(NotAccepted):
            await replicas.metadata(only, "m")
        assert b'"name":"m"' in (await replicas.metadata(only, "m")).body


@pytest.fixture
def broken(tmp_path: Path) -> Secret:
    """No certificate stands in it."""
    made = Secret(tmp_path / "broken")
    Path(made.cert).write_text("no certificate")
    return made


async def test_a_certificate_of_the_job_that_is_none_says_so(
    bench: Callable[..., Bench], secret: Secret, broken: Secret
) -> None:
    job = bench(
        cpu("row", "sample_functions:one_row"),
        model("m", "emu", "m", "row"),
        endpoints={"emu": "127.0.0.1:1"},
        tls={"emu": trusting(secret, broken)},
    )
    with pytest.raises(StepFailed, match="cannot be used") as failed:
        await run_with(job, 1)
    assert failed.value.reason == "CertificateRefused"


@pytest.mark.parametrize(
    ("name", "ca", "why"),
    [("other.n.svc", True, "Hostname mismatch"), (NAME, False, "self-signed|unable to get local issuer")],
    ids=["another name", "an authority that is not trusted"],
)
async def test_who_cannot_show_the_certificate_gets_no_item(
    bench: Callable[..., Bench], secret: Secret, name: str, ca: bool, why: str
) -> None:
    async with replica(deployment(), options=secret.options) as here:
        job = bench(
            cpu("row", "sample_functions:one_row"),
            model("m", "emu", "m", "row"),
            endpoints={"emu": f"{here.host}:{here.http}"},
            tls={"emu": TrustedServer(server_name=name, ca_file=secret.ca if ca else f"{secret.ca}.none")},
        )
        job.write_records([{"v": 1}])
        with pytest.raises(StepFailed, match=why) as failed:
            await job.run_all()
    assert failed.value.reason == "CertificateNotTrusted"
    assert "spec.tls.secretRef" in str(failed.value)
