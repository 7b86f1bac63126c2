"""Where artifacts may come from."""

from __future__ import annotations

import pytest

from batchwright_worker.fetch.errors import FetchRefused
from batchwright_worker.fetch.policy import FetchPolicy, policy_of

NEVER = [
    "169.254.169.254",
    "fe80::1%eth0",
    "fd00:ec2::254",
    "100.100.100.200",
    "::ffff:169.254.169.254",
    "0.0.0.0",
    "224.0.0.1",
]
PRIVATE = ["127.0.0.1", "::1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "fd12::1", "::ffff:10.0.0.1", "64:ff9b::a00:1"]
PUBLIC = ["93.184.215.14", "2606:4700::1111", "::ffff:93.184.215.14"]


@pytest.mark.parametrize("address", [*NEVER, *PRIVATE])
def test_inner_addresses_are_refused(address: str) -> None:
    with pytest.raises(FetchRefused, match="host h is"):
        FetchPolicy().check_address("h", address)


@pytest.mark.parametrize("address", NEVER)
def test_metadata_addresses_are_refused_even_where_private_ones_are_allowed(address: str) -> None:
    with pytest.raises(FetchRefused, match="never fetched from"):
        FetchPolicy(allow_private_addresses=True).check_address("h", address)


@pytest.mark.parametrize("address", [*PUBLIC, *PRIVATE])
def test_private_addresses_can_be_allowed(address: str) -> None:
    FetchPolicy(allow_private_addresses=True).check_address("h", address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_fine(address: str) -> None:
    FetchPolicy().check_address("h", address)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("http://example.org/x", "scheme 'http' is not fetched"),
        ("ftp://example.org/x", "scheme 'ftp' is not fetched"),
        ("oci://registry/x", "--volume IMAGE=FOLDER"),
        ("https://example.org", "write https://HOST/PATH"),
        ("s3://bucket", "write s3://HOST/PATH"),
    ],
)
def test_other_addresses_are_refused_with_a_remedy(uri: str, words: str) -> None:
    with pytest.raises(FetchRefused) as refused:
        FetchPolicy().check_uri(uri)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("models.example.org", True),
        ("MODELS.example.org", True),
        ("a.cdn.example.org", True),
        ("cdn.example.org", False),
        ("evilcdn.example.org", False),
        ("example.org", False),
        ("models.example.org.evil.net", False),
    ],
)
def test_hosts_are_matched_whole_or_below_a_star(host: str, allowed: bool) -> None:
    policy = policy_of({"BATCHWRIGHT_ALLOWED_HOSTS": "models.example.org, *.cdn.example.org"})
    if allowed:
        policy.check_uri(f"https://{host}/x")
    else:
        with pytest.raises(FetchRefused, match="is not allowed"):
            policy.check_uri(f"https://{host}/x")


def test_the_environment_is_strict_unless_it_says_true() -> None:
    assert policy_of({}) == FetchPolicy()
    loose = policy_of({"BATCHWRIGHT_ALLOW_PRIVATE_ADDRESSES": "true", "BATCHWRIGHT_ALLOW_HTTP": "true"})
    assert loose == FetchPolicy(allow_private_addresses=True, allow_http=True)
