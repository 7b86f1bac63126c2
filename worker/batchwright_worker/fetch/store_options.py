"""How a bucket is reached: endpoint, region and credentials from a Secret, else from the environment; pure.

Credentials of a Secret are used alone, whatever the environment has. Without any, requests are not signed: what a node
could get from its metadata service (the node's own rights) is never asked for.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from batchwright_worker.fetch.errors import FetchRefused

ENDPOINTS: Final[Mapping[str, tuple[str, ...]]] = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    "gs": ("STORAGE_EMULATOR_HOST",),
    "az": ("AZURE_STORAGE_ENDPOINT",),
}
_AMBIENT: Final[Mapping[str, tuple[str, ...]]] = {
    "s3": (
        "AWS_ACCESS_KEY_ID",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ),
    "gs": (
        "GOOGLE_SERVICE_ACCOUNT",
        "GOOGLE_SERVICE_ACCOUNT_PATH",
        "GOOGLE_SERVICE_ACCOUNT_KEY",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "GOOGLE_BEARER_TOKEN",
    ),
    "az": (
        "AZURE_STORAGE_ACCOUNT_KEY",
        "AZURE_STORAGE_SAS_TOKEN",
        "AZURE_STORAGE_CLIENT_SECRET",
        "AZURE_CLIENT_SECRET",
        "AZURE_FEDERATED_TOKEN_FILE",
    ),
}
"""Variables with which the library finds credentials by itself (pod identities among them)."""
_AZURE: Final = {
    "AZURE_STORAGE_ACCOUNT_NAME": "account_name",
    "AZURE_STORAGE_ACCOUNT_KEY": "account_key",
    "AZURE_STORAGE_SAS_TOKEN": "sas_key",
    "AZURE_CLIENT_ID": "client_id",
    "AZURE_CLIENT_SECRET": "client_secret",
    "AZURE_TENANT_ID": "tenant_id",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """`config` is obstore's; `credential` is used alone where there is one; `endpoint` empty: the vendor's own."""

    scheme: str
    config: Mapping[str, Any] = field(default_factory=dict)
    credential: Mapping[str, Any] | None = None
    endpoint: str = ""

    @property
    def needs_region(self) -> bool:
        """Is the bucket's region to be asked for? Only S3 itself has any."""
        return self.scheme == "s3" and not self.endpoint and "region" not in self.config


def store_options(scheme: str, bucket: str, secret: Mapping[str, str], environ: Mapping[str, str]) -> StoreOptions:
    """Raises FetchRefused for a Secret that lacks something."""
    endpoint = next((where[name] for where in (secret, environ) for name in ENDPOINTS[scheme] if where.get(name)), "")
    make = {"s3": _s3, "gs": _gs, "az": _az}[scheme]
    config, credential = make(bucket, secret, environ)
    if credential is None and not config.keys() & _SIGNING and not any(environ.get(name) for name in _AMBIENT[scheme]):
        config["skip_signature"] = True
    if endpoint:
        endpoint = endpoint if "://" in endpoint else f"http://{endpoint}"
        config |= {"base_url": endpoint} if scheme == "gs" else {"endpoint": endpoint}
    return StoreOptions(scheme=scheme, config=config, credential=credential, endpoint=endpoint)


_SIGNING: Final = frozenset({"service_account_key", "account_key", "sas_key", "client_secret"})
_Made = tuple[dict[str, Any], dict[str, Any] | None]


def _s3(_bucket: str, secret: Mapping[str, str], environ: Mapping[str, str]) -> _Made:
    places = (secret, environ)
    names = ("AWS_REGION", "AWS_DEFAULT_REGION")
    region = next((where[name] for where in places for name in names if where.get(name)), "")
    config: dict[str, Any] = {"region": region} if region else {}
    key, password = secret.get("AWS_ACCESS_KEY_ID"), secret.get("AWS_SECRET_ACCESS_KEY")
    if bool(key) != bool(password):
        raise FetchRefused("the Secret has one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: write both, or neither")
    if not key:
        return config, None
    token = secret.get("AWS_SESSION_TOKEN")
    return config, {"access_key_id": key, "secret_access_key": password, "token": token, "expires_at": None}


def _gs(_bucket: str, secret: Mapping[str, str], _environ: Mapping[str, str]) -> _Made:
    credentials = secret.get("credentials.json")
    return ({"service_account_key": credentials} if credentials else {}), None


def _az(bucket: str, secret: Mapping[str, str], environ: Mapping[str, str]) -> _Made:
    config: dict[str, Any] = {option: secret[name] for name, option in _AZURE.items() if secret.get(name)}
    if "account_name" not in config and not environ.get("AZURE_STORAGE_ACCOUNT_NAME"):
        raise FetchRefused(
            f"az://{bucket}: whose container it is has to be said: AZURE_STORAGE_ACCOUNT_NAME in the Secret of "
            "secretRef, or in the environment"
        )
    try:
        base64.b64decode(config.get("account_key", ""), validate=True)
    except ValueError as error:
        raise FetchRefused("AZURE_STORAGE_ACCOUNT_KEY of the Secret is no base64: copy it as Azure shows it") from error
    return config, None
