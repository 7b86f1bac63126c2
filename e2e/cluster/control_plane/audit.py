"""What was written to the API server, by whom, from its audit log.

The policy logs every write (create, update, patch, delete) once, when it was answered, without bodies.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

WRITE_VERBS = ("create", "update", "patch", "delete", "deletecollection")

POLICY: dict[str, Any] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "verbs": list(WRITE_VERBS)}, {"level": "None"}],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One answered write: `resource` is like "pods" or "pods/status", `at` is in UTC, `status` the HTTP code."""

    at: datetime
    user: str
    verb: str
    resource: str
    namespace: str
    name: str
    status: int
    user_agent: str


def writes(
    path: Path,
    *,
    user: str | None = None,
    since: datetime | None = None,
    user_agent: str | None = None,
) -> list[Write]:
    """The writes in an audit log, oldest first: those of `user`, from `since` on, whose agent contains `user_agent`.

    A service account's user is "system:serviceaccount:NAMESPACE:NAME". Reviews (of access and tokens) and dry runs
    change nothing and are left out.
    """
    return [
        write
        for write in _parsed(path)
        if (user is None or write.user == user)
        and (since is None or write.at >= since)
        and (user_agent is None or user_agent in write.user_agent)
        and not write.resource.endswith("reviews")
    ]


def _parsed(path: Path) -> Iterator[Write]:
    if not path.exists():
        return
    with path.open() as lines:
        for line in lines:
            if not line.endswith("\n"):
                continue  # the last one may still be on its way
            event = json.loads(line)
            if "dryRun=All" not in event.get("requestURI", ""):
                yield _write(event)


def _write(event: dict[str, Any]) -> Write:
    target = event.get("objectRef", {})
    subresource = target.get("subresource")
    return Write(
        at=datetime.fromisoformat(event["requestReceivedTimestamp"]).astimezone(UTC),
        user=event["user"].get("username", ""),
        verb=event["verb"],
        resource=target.get("resource", "") + (f"/{subresource}" if subresource else ""),
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
        status=event.get("responseStatus", {}).get("code", 0),
        user_agent=event.get("userAgent", ""),
    )
