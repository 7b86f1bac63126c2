"""What helps against what a cluster refuses, told from Kubernetes' own words."""

from __future__ import annotations

import pytest

from batchwright_operator.pods.refusals import with_remedy

TABLE = [
    ('pods "a" is forbidden: exceeded quota: q, requested: cpu=1, used: cpu=0, limited: cpu=0', "ResourceQuota"),
    ('pods "a" is forbidden: failed quota: q: must specify limits.cpu for: runtime', "LimitRange's defaults"),
    ('pods "a" is forbidden: maximum cpu usage per Container is 100m, but limit is 1', "LimitRange"),
    ('pods "a" is forbidden: minimum memory usage per Pod is 1Gi, but request is 1Mi', "LimitRange"),
    ('pods "a" is forbidden: cpu max limit to request ratio per Container is 2, but provided ratio is 4', "LimitRange"),
    ('pods "a" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true', "securityContext"),
    (
        'Pod "a" is invalid: Invalid value: "1Gi": must be less than or equal to memory limit of 1Mi',
        "default",
    ),
    ('.spec.template.spec.volumes: duplicate entries for key [name="config"]', "choose another"),
    ('admission webhook "w" denied the request: not on Mondays', "what that webhook names"),
    ('admission webhook "w" denied the request: you must specify label "owner"', "what that webhook names"),
    ('admission webhook "w" denied the request: exceeded quota of the team', "what that webhook names"),
    ("ValidatingAdmissionPolicy 'p' with binding 'b' denied request: images usage per team", "what that policy names"),
    ("ValidatingAdmissionPolicy 'p' with binding 'b' denied request: failed expression: x", "what that policy names"),
    ('Internal error occurred: failed calling webhook "w": failed to call webhook: EOF', "repair it"),
    ('pods "a" is forbidden: error looking up service account shop/x: serviceaccount "x" not found', "ServiceAccount"),
    ('pods "a" is forbidden: no PriorityClass with name urgent was found', "PriorityClass"),
    ('pods "a" is forbidden: pod rejected: RuntimeClass "nvidia" not found', "runtimeClassName"),
]


@pytest.mark.parametrize(("message", "helps"), TABLE)
def test_the_message_is_followed_by_what_helps(message: str, helps: str) -> None:
    said, _, remedy = with_remedy(message).rpartition("; ")
    assert said == message
    assert helps in remedy


def test_what_is_not_known_is_said_as_it_is() -> None:
    assert with_remedy("no reason is known") == "no reason is known"
