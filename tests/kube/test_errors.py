"""HTTP statuses of the API server as errors."""

from __future__ import annotations

import pytest

from batchwright_operator.errors import (
    AlreadyExists,
    ApiError,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    Unavailable,
    WebhookFailed,
    error_of,
)


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (404, "NotFound", NotFound),
        (409, "AlreadyExists", AlreadyExists),
        (409, "Conflict", Conflict),
        (410, "Expired", Gone),
        (403, "Forbidden", Forbidden),
        (422, "Invalid", Invalid),
        (429, "TooManyRequests", Unavailable),
        (503, "", Unavailable),
        (500, "InternalError", Unavailable),
    ],
)
def test_errors_are_sorted_by_what_to_do_next(code: int, reason: str, kind: type[ApiError]) -> None:
    assert type(error_of(code, reason, "m")) is kind


CALLING = 'Internal error occurred: failed calling webhook "a.example.org": failed to call webhook: EOF'
DENIED = 'admission webhook "a.example.org" denied the request: not on Mondays'


@pytest.mark.parametrize("code", [400, 401, 403, 404, 409, 410, 422, 429, 500, 503])
def test_a_webhooks_no_is_one_whatever_status_it_has_chosen(code: int) -> None:
    assert type(error_of(code, "", DENIED)) is Forbidden


POLICY = "services \"a\" is forbidden: ValidatingAdmissionPolicy '{}' with binding 'b' denied request: not on Mondays"


@pytest.mark.parametrize("code", [403, 413, 422])
def test_a_policys_no_is_one_whatever_reason_it_has_chosen(code: int) -> None:
    """Of a body that is wrong nothing is said by 422, which is what policies choose that choose nothing."""
    assert type(error_of(code, "", POLICY.format("no-mondays"))) is Forbidden


@pytest.mark.parametrize("name", ["batchwright-operator", "team-a-batchwright-operator"])
def test_the_no_of_our_own_policy_is_about_what_we_asked_for(name: str) -> None:
    assert type(error_of(422, "Invalid", POLICY.format(name))) is Invalid


def test_a_body_that_cannot_be_read_is_wrong_though_the_server_calls_it_its_own_error() -> None:
    """Words of Kubernetes 1.37: taken for an outage, it was tried again for ever and told to nobody."""
    of = "failed to create typed patch object (shop/ocr-cpu; apps/v1, Kind=Deployment): .spec.template.spec.volumes: {}"
    for detail in ('duplicate entries for key [name="config"]', "image: field not declared in schema"):
        assert type(error_of(500, "", of.format(detail))) is Invalid


def test_a_webhook_that_is_away_is_not_the_api_server_away() -> None:
    assert type(error_of(500, "InternalError", CALLING)) is WebhookFailed
    assert type(error_of(500, "InternalError", "etcdserver: request timed out")) is Unavailable
