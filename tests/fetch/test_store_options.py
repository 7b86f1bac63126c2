"""Credentials and endpoints of buckets: the Secret before the environment, one alone, else unsigned."""

from __future__ import annotations

from typing import Any

import pytest

from batchwright_worker.fetch.errors import FetchRefused
from batchwright_worker.fetch.store_options import StoreOptions, store_options

KEYS = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
OWN = {"access_key_id": "k", "secret_access_key": "s", "token": None, "expires_at": None}
ACCOUNT = {"AZURE_STORAGE_ACCOUNT_NAME": "shop"}


@pytest.mark.parametrize(
    ("scheme", "secret", "environ", "wanted"),
    [
        ("s3", {}, {}, {"config": {"skip_signature": True}}),
        ("s3", KEYS, {}, {"credential": OWN}),
        ("s3", KEYS | {"AWS_SESSION_TOKEN": "t"}, {}, {"credential": OWN | {"token": "t"}}),
        ("s3", KEYS, {"AWS_ACCESS_KEY_ID": "other", "AWS_SESSION_TOKEN": "other"}, {"credential": OWN}),
        ("s3", {}, KEYS, {}),
        ("s3", {}, {"AWS_WEB_IDENTITY_TOKEN_FILE": "/token"}, {}),
        ("s3", KEYS | {"AWS_REGION": "eu-west-1"}, {"AWS_REGION": "x"}, {"config": {"region": "eu-west-1"}}),
        ("s3", {}, KEYS | {"AWS_DEFAULT_REGION": "x"}, {"config": {"region": "x"}}),
        (
            "s3",
            KEYS | {"AWS_ENDPOINT_URL": "https://minio:9000"},
            {"AWS_ENDPOINT_URL_S3": "https://other"},
            {"config": {"endpoint": "https://minio:9000"}, "endpoint": "https://minio:9000"},
        ),
        ("gs", {}, {}, {"config": {"skip_signature": True}}),
        ("gs", {"credentials.json": "{}"}, {}, {"config": {"service_account_key": "{}"}}),
        ("gs", {}, {"GOOGLE_APPLICATION_CREDENTIALS": "/key.json"}, {"config": {}}),
        (
            "gs",
            {},
            {"STORAGE_EMULATOR_HOST": "emulator:4443"},
            {
                "config": {"skip_signature": True, "base_url": "http://emulator:4443"},
                "endpoint": "http://emulator:4443",
            },
        ),
        ("az", ACCOUNT, {}, {"config": {"account_name": "shop", "skip_signature": True}}),
        (
            "az",
            ACCOUNT | {"AZURE_STORAGE_ACCOUNT_KEY": "a2V5"},
            {},
            {"config": {"account_name": "shop", "account_key": "a2V5"}},
        ),
        ("az", {"AZURE_STORAGE_SAS_TOKEN": "sv=1"}, ACCOUNT, {"config": {"sas_key": "sv=1"}}),
        ("az", {}, ACCOUNT | {"AZURE_FEDERATED_TOKEN_FILE": "/token"}, {"config": {}}),
    ],
)
def test_how_a_bucket_is_reached(
    scheme: str, secret: dict[str, str], environ: dict[str, str], wanted: dict[str, Any]
) -> None:
    found = store_options(scheme, "b", secret, environ)
    for name, value in wanted.items():
        assert getattr(found, name) == value
    if "credential" not in wanted and not secret.keys() & KEYS:
        assert found.credential is None


@pytest.mark.parametrize(
    ("scheme", "secret", "words"),
    [
        ("s3", {"AWS_ACCESS_KEY_ID": "k"}, "write both"),
        ("az", {}, "AZURE_STORAGE_ACCOUNT_NAME"),
        ("az", ACCOUNT | {"AZURE_STORAGE_ACCOUNT_KEY": "no base64!"}, "base64"),
    ],
)
def test_a_secret_that_lacks_something_is_refused(scheme: str, secret: dict[str, str], words: str) -> None:
    with pytest.raises(FetchRefused, match=words):
        store_options(scheme, "b", secret, {})


def test_only_buckets_of_s3_itself_have_a_region_to_ask_for() -> None:
    assert StoreOptions(scheme="s3").needs_region
    assert not StoreOptions(scheme="s3", endpoint="https://minio").needs_region
    assert not StoreOptions(scheme="s3", config={"region": "x"}).needs_region
    assert not StoreOptions(scheme="gs").needs_region
