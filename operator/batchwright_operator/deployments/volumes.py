"""Volumes of a model pod and where they are mounted; docs/design/0001 has the table."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Final

from batchwright_operator.api.model_deployment import ModelDeployment
from batchwright_operator.deployments.children import config_name
from batchwright_operator.kube.objects import Raw
from batchwright_operator.rendering.mounts import mount, secret_volume, volume_name
from batchwright_operator.rendering.objects import digest
from batchwright_operator.settings import Settings, WeightsCache
from batchwright_worker.api.deployment import Artifact, Tls
from batchwright_worker.api.names import (
    CACHE_DIR,
    CLIENT_CA_DIR,
    CONFIG_DIR,
    FETCHED_DIR,
    IPC_DIR,
    SCRIPTS_DIR,
    SECRETS_DIR,
    TLS_DIR,
    WEIGHTS_DIR,
    child_name,
    claim_of,
    image_path,
    is_mounted,
)
from batchwright_worker.api.uris import oci_address

CACHE_VOLUME: Final = "weights-cache"
TLS_CERT: Final = "tls.crt"
TLS_KEY: Final = "tls.key"
"""Keys of a Secret of type kubernetes.io/tls."""
CLIENT_CA: Final = "ca.crt"


def common_mounts() -> list[Raw]:
    """Mounts of the sidecar and of every runtime."""
    return [
        mount("config", CONFIG_DIR),
        mount("ipc", IPC_DIR, read_only=False),
        mount("tmp", "/tmp", read_only=False),  # noqa: S108 - the pod's own emptyDir
    ]


def certificate_mounts(deployment: ModelDeployment) -> list[Raw]:
    """The certificate of the inference ports and who signs those of clients, where there are any: the sidecar's
    alone."""
    tls = deployment.spec.tls
    if tls is None:
        return []
    return [mount("tls", TLS_DIR), *([mount("client-ca", CLIENT_CA_DIR)] if asks_clients(tls) else [])]


def asks_clients(tls: Tls) -> bool:
    """Do clients have to show a certificate?"""
    return tls.client_auth == "Required"


def weight_mounts(deployment: ModelDeployment, artifacts: Sequence[Artifact], settings: Settings) -> list[Raw]:
    """Mounts of a runtime: claims, images and what was fetched, read-only."""
    mounts = _mounted(artifacts)
    if fetched(artifacts):
        mounts += [mount("fetched", FETCHED_DIR), *_cache_mounts(deployment, artifacts, settings)]
    return mounts


def sidecar_weight_mounts(
    deployment: ModelDeployment, artifacts: Sequence[Artifact], read: Sequence[Artifact], settings: Settings
) -> list[Raw]:
    """Mounts of a sidecar: the artifacts that it reads itself, and the cache, where it holds what the pod uses."""
    cache = _cache_mounts(deployment, artifacts, settings)
    held = [mount("fetched", FETCHED_DIR), *cache] if cache else []
    return list({each["mountPath"]: each for each in (*held, *weight_mounts(deployment, read, settings))}.values())


def cache_of(deployment: ModelDeployment, artifacts: Sequence[Artifact], settings: Settings) -> WeightsCache | None:
    """The cache that the pods have, if they fetch anything."""
    cache = settings.weights_cache
    used = cache is not None and fetched(artifacts) and cache.serves(deployment.namespace)
    return cache if used else None


def _cache_mounts(
    deployment: ModelDeployment, artifacts: Sequence[Artifact], settings: Settings, *, read_only: bool = True
) -> list[Raw]:
    """The folder of the namespace alone: what others may fetch stays theirs."""
    if cache_of(deployment, artifacts, settings) is None:
        return []
    return [mount(CACHE_VOLUME, CACHE_DIR, read_only=read_only) | {"subPath": deployment.namespace}]


def _cache_volume(cache: WeightsCache) -> Raw:
    if cache.claim_name:
        return {"name": CACHE_VOLUME, "persistentVolumeClaim": {"claimName": cache.claim_name}}
    if cache.csi:
        return {"name": CACHE_VOLUME, "csi": deepcopy(cache.csi)}
    return {"name": CACHE_VOLUME, "hostPath": {"path": cache.host_path, "type": "Directory"}}


def script_mounts(artifacts: Sequence[Artifact]) -> list[Raw]:
    """The models' inference scripts."""
    return [mount(volume, f"{SCRIPTS_DIR}/{name}") for name, volume in _script_volumes(artifacts).items()]


def fetched(artifacts: Sequence[Artifact]) -> dict[str, int]:
    """URI -> size limit of what must be downloaded."""
    return {each.uri: each.max_bytes for each in artifacts if each.uri and not is_mounted(each.uri)}


def needs_fetch(artifacts: Sequence[Artifact]) -> bool:
    """Is there anything to download, or a mounted artifact whose digest is to be checked?"""
    return bool(fetched(artifacts) or _checked(artifacts))


def _checked(artifacts: Sequence[Artifact]) -> list[Artifact]:
    """Those on claims and in images with a digest."""
    return [each for each in artifacts if each.uri and each.sha256 and is_mounted(each.uri)]


def _claim_volumes(artifacts: Sequence[Artifact]) -> dict[str, str]:
    claims = (claim_of(each.uri) for each in artifacts if each.uri)
    return {claim: volume_name("pvc", claim) for claim in claims if claim}


def _image_volumes(artifacts: Sequence[Artifact]) -> dict[str, str]:
    images = (oci_address(each.uri) for each in artifacts if each.uri)
    return {image.reference: f"image-{digest(image.reference)}" for image in images if image}


def _mounted(artifacts: Sequence[Artifact]) -> list[Raw]:
    """Claims and images, read-only."""
    claims = [mount(volume, f"{WEIGHTS_DIR}/pvc/{claim}") for claim, volume in _claim_volumes(artifacts).items()]
    return [*claims, *(mount(volume, image_path(image)) for image, volume in _image_volumes(artifacts).items())]


def pull_secrets(artifacts: Sequence[Artifact]) -> list[str]:
    """Secrets that images of artifacts are pulled with."""
    return [each.secret_ref.name for each in artifacts if each.secret_ref and oci_address(each.uri or "")]


def _secret_volumes(artifacts: Sequence[Artifact]) -> dict[str, str]:
    names = (each.secret_ref.name for each in artifacts if each.secret_ref and each.uri in fetched(artifacts))
    return {name: volume_name("secret", name) for name in names}


def _script_volumes(artifacts: Sequence[Artifact]) -> dict[str, str]:
    keys = (each.script.config_map_key_ref for each in artifacts if each.script)
    return {key.name: volume_name("script", key.name) for key in keys if key}


def fetch_mounts(deployment: ModelDeployment, artifacts: Sequence[Artifact], settings: Settings) -> list[Raw]:
    """Mounts of the fetch container: where it writes, claims and images with what it checks, and the credentials that
    artifacts name."""
    return [
        mount("config", CONFIG_DIR),
        *([mount("fetched", FETCHED_DIR, read_only=False)] if fetched(artifacts) else []),
        *_cache_mounts(deployment, artifacts, settings, read_only=False),
        *_mounted(_checked(artifacts)),
        mount("tmp", "/tmp", read_only=False),  # noqa: S108 - the pod's own emptyDir
        *(mount(volume, f"{SECRETS_DIR}/{name}") for name, volume in _secret_volumes(artifacts).items()),
    ]


def volumes(deployment: ModelDeployment, kind: str, artifacts: Sequence[Artifact], settings: Settings) -> list[Raw]:
    """The volumes that the mounts above name."""
    cache = cache_of(deployment, artifacts, settings)
    owner, tls = deployment.raw, deployment.spec.tls
    control = child_name(owner["metadata"]["name"], "control")
    claims, secrets, scripts = _claim_volumes(artifacts), _secret_volumes(artifacts), _script_volumes(artifacts)
    size = str(sum(fetched(artifacts).values()))
    return [
        {"name": "config", "configMap": {"name": config_name(owner, kind)}},
        {"name": "control", "secret": {"secretName": control}},
        *(_certificates(tls) if tls is not None else []),
        {"name": "ipc", "emptyDir": {"medium": "Memory"}},
        {"name": "tmp", "emptyDir": {}},
        *(
            {"name": volume, "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
            for claim, volume in claims.items()
        ),
        *({"name": volume, "image": {"reference": image}} for image, volume in _image_volumes(artifacts).items()),
        *([{"name": "fetched", "emptyDir": {"sizeLimit": size}}] if fetched(artifacts) else []),
        *([_cache_volume(cache)] if cache is not None else []),
        *({"name": volume, "secret": {"secretName": name}} for name, volume in secrets.items()),
        *({"name": volume, "configMap": {"name": name}} for name, volume in scripts.items()),
    ]


def _certificates(tls: Tls) -> list[Raw]:
    own = secret_volume("tls", tls.secret_ref.name, TLS_CERT, TLS_KEY)
    if not asks_clients(tls):
        return [own]
    # Not optional: without it nobody could be told from anybody, and the pod must not start.
    return [own, secret_volume("client-ca", (tls.client_ca_secret_ref or tls.secret_ref).name, CLIENT_CA)]
