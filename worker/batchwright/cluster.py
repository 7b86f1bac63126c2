"""A cluster through the user's own kubeconfig: apply as `kubectl apply --server-side` does, wait with progress."""

from __future__ import annotations

import difflib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from batchwright.manifests import Manifest
from batchwright_worker.api.documents import KINDS
from batchwright_worker.api.names import GROUP, VERSION

Raw = dict[str, Any]
MANAGER = "batchwright-sdk"
_APPLY = "application/apply-patch+yaml"
_WATCH_S = 60
_PATIENCE_S = (5.0, 30.0)
"""To connect, and to read: an API server that says nothing is asked again."""
_PAUSE_S = 0.5
# The official loader checks little of what it reads: a kubeconfig of a wrong shape ends in any of these.
_UNREADABLE = (OSError, yaml.YAMLError, AttributeError, LookupError, TypeError, ValueError)
_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
"""Of a pod."""


class NotReached(Exception):  # noqa: N818 - what was waited for
    """The object failed, is not there, or did not get there in time; `reason` is one of docs/troubleshooting.md."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason


class Cluster:
    """`context`, `namespace`: None for those of the kubeconfig, as kubectl takes them; in a pod, those of the pod."""

    def __init__(self, *, context: str | None = None, namespace: str | None = None) -> None:
        client, config = _kubernetes()
        settings, files = client.Configuration(), os.environ.get("KUBECONFIG") or "~/.kube/config"
        try:
            chosen, its_namespace = _context(files, context)
            config.load_kube_config(config_file=files, context=chosen, client_configuration=settings)
            self._namespace = namespace or its_namespace
        except config.ConfigException:
            if context is not None or not _TOKEN.exists():  # a pod has no contexts
                raise
            self._namespace = namespace or _TOKEN.with_name("namespace").read_text()
            config.load_incluster_config(client_configuration=settings)
        except _UNREADABLE as error:
            raise config.ConfigException(f"{files} is no kubeconfig: {error}") from error
        self._objects = client.CustomObjectsApi(client.ApiClient(settings))

    def apply(self, manifest: Manifest, *, force: bool = False) -> Raw:
        """Creates or changes it (server-side apply); what the server holds then. `force`: take over fields that others
        manage. Raises InvalidManifest; kubernetes' ApiException with the server's words."""
        return self._apply(manifest.checked(), force=force)

    def plan(self, manifest: Manifest) -> str:
        """What `apply` would change, as a unified diff; empty: nothing. Nothing is written."""
        there = self._unless_missing(self._objects.get_namespaced_custom_object, manifest)
        after = self._apply(manifest.checked(), force=True, dry_run="All")
        before, new = (_comparable(each).splitlines(keepends=True) for each in (there, after))
        return "".join(difflib.unified_diff(before, new, "as it is", "as it would be"))

    def get(self, manifest: Manifest) -> Raw:
        """As it is now. Raises ApiException (404: there is none)."""
        found: Raw = self._objects.get_namespaced_custom_object(**self._place(manifest))
        return found

    def delete(self, manifest: Manifest) -> None:
        """Deletes it; one that is not there is none."""
        self._unless_missing(self._objects.delete_namespaced_custom_object, manifest)

    def wait(
        self, manifest: Manifest, *, timeout_s: float = 600.0, progress: Callable[[Raw], None] | None = None
    ) -> Raw:
        """Until a ModelDeployment is Ready, or an InferenceJob Complete, in the generation that is there; the object
        then. `progress` gets each state; without it a line is drawn, in terminals and notebooks. An API server that is
        away for a while, restarts or turns calls away is asked again. Raises NotReached."""
        deadline, newest = time.monotonic() + timeout_s, Raw()
        with _Line(manifest.name, progress) as told:
            for newest in self._states(manifest, deadline):
                told(newest)
                reached, reason, message = standing(newest)
                if reached:
                    return newest
                if reached is False:
                    raise NotReached(reason, message)
        _, reason, message = standing(newest)
        raise NotReached(reason or "Timeout", f"not there after {timeout_s:g} s; {message}")

    def _states(self, manifest: Manifest, deadline: float) -> Iterator[Raw]:
        """The object as it is, once at least, and as it is after each change, until the deadline."""
        while True:
            try:
                yield from self._changes(manifest, deadline)
            except Exception as error:
                if not _passes(error):
                    raise
                time.sleep(max(0.0, min(_PAUSE_S, deadline - time.monotonic())))
                if time.monotonic() >= deadline:
                    raise NotReached("Timeout", f"the API server does not answer: {error}") from error
            if time.monotonic() >= deadline:
                return

    def _changes(self, manifest: Manifest, deadline: float) -> Iterator[Raw]:
        """The object as it is, and after each change, for a minute at most. Raises NotReached if there is none."""
        from kubernetes import watch

        place = self._place(manifest)
        found = self._unless_missing(self._objects.get_namespaced_custom_object, manifest, _request_timeout=_PATIENCE_S)
        if not found:
            raise NotReached("NotFound", f"namespace {place['namespace']} has no {manifest.kind} {manifest.name}")
        yield found
        lasts_s = min(_WATCH_S, int(deadline - time.monotonic()))
        if lasts_s < 1:
            time.sleep(max(0.0, min(_PAUSE_S, deadline - time.monotonic())))
            return
        field = f"metadata.name={place.pop('name')}"
        stream = watch.Watch().stream(
            self._objects.list_namespaced_custom_object, **place, field_selector=field,
            resource_version=found["metadata"]["resourceVersion"], timeout_seconds=lasts_s,
            _request_timeout=(_PATIENCE_S[0], lasts_s + _PATIENCE_S[1]),
        )  # fmt: skip
        for event in stream:
            if event["type"] == "DELETED":
                return
            if event["type"] in ("ADDED", "MODIFIED"):
                yield event["object"]

    def _unless_missing(self, call: Callable[..., Raw], manifest: Manifest, **options: Any) -> Raw:
        """What the call answers; empty where there is no such object."""
        client, _ = _kubernetes()
        try:
            return call(**self._place(manifest), **options)
        except client.ApiException as error:
            if error.status != 404:
                raise
            return {}

    def _apply(self, manifest: Manifest, **options: Any) -> Raw:
        client, _ = _kubernetes()
        # Not decoded by the client: it knows no other answer than 200, and 201 is what creates.
        answer = self._objects.patch_namespaced_custom_object(
            **self._place(manifest), body=manifest.document, field_manager=MANAGER, field_validation="Strict",
            _content_type=_APPLY, _preload_content=False, **options,
        )  # fmt: skip
        if answer.status >= 400:
            raise client.ApiException(http_resp=answer)
        written: Raw = json.loads(answer.data)
        return written

    def _place(self, manifest: Manifest) -> dict[str, str]:
        namespace = manifest.namespace or self._namespace
        return {"group": GROUP, "version": VERSION, "plural": KINDS[manifest.kind], "namespace": namespace,
                "name": manifest.name}  # fmt: skip


def _passes(error: Exception) -> bool:
    """Whether a call that failed so may succeed later: nobody answered, or the API server said that it cannot now."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    if isinstance(error, ApiException):
        return error.status in (0, 410, 429) or int(error.status or 0) >= 500
    return isinstance(error, HTTPError)


def standing(obj: Raw) -> tuple[bool | None, str, str]:
    """(is it where it should be, reason, message) of a ModelDeployment or InferenceJob in the generation that is there;
    the first is None while it is on its way."""
    status = obj.get("status") or {}
    if int(status.get("observedGeneration", 0)) < int(obj["metadata"].get("generation", 1)):
        return None, "", "the operator has not looked at it yet"
    conditions = {each["type"]: each for each in status.get("conditions", ())}
    goal = conditions.get("Complete" if obj.get("kind") == "InferenceJob" else "Ready", {})
    bad = next((conditions[kind] for kind in ("Failed", "Stalled") if _holds(conditions, kind)), None)
    if _holds(conditions, goal.get("type", "")):
        return True, goal["reason"], goal["message"]
    said = bad or next((conditions[kind] for kind in ("Reconciling", "Running") if _holds(conditions, kind)), goal)
    return (False if bad else None), said.get("reason", ""), said.get("message", "")


def _holds(conditions: dict[str, Raw], kind: str) -> bool:
    return conditions.get(kind, {}).get("status") == "True"


class _Line:
    """One line that says where it stands, or the caller's own function."""

    def __init__(self, name: str, progress: Callable[[Raw], None] | None) -> None:
        self._name, self._progress = name, progress

    def __enter__(self) -> Callable[[Raw], None]:
        if self._progress is not None:
            return self._progress
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        # Words of others: what stands in brackets there is no markup.
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns).__enter__()
        task = self._bar.add_task(self._name, total=None)

        def show(obj: Raw) -> None:
            _, reason, message = standing(obj)
            items = (obj.get("status") or {}).get("items") or {}
            done = items.get("succeeded", 0) + items.get("failed", 0) if items.get("total") else None
            text = f"{self._name}: {reason or 'waits'} {message}".strip()
            self._bar.update(task, description=text, total=items.get("total"), completed=done)

        return show

    def __exit__(self, *exc: object) -> None:
        if self._progress is None:
            self._bar.stop()


def _comparable(obj: Raw) -> str:
    """Spec, labels and annotations: what an author writes."""
    metadata = obj.get("metadata", {})
    kept = {name: metadata[name] for name in ("name", "namespace", "labels", "annotations") if metadata.get(name)}
    return yaml.safe_dump({"metadata": kept, "spec": obj["spec"]}) if obj else ""


def _context(files: str, context: str | None) -> tuple[str | None, str]:
    """The context that kubectl takes, and its namespace. Without one named it is that of the first file that names one
    (the official loader takes that of the last)."""
    documents = list(_documents(files))
    named = (each.get("current-context") for each in documents)
    chosen = context or next((str(each) for each in named if each), None)
    for document in documents:
        for each in document.get("contexts") or ():
            if each["name"] == chosen:
                return chosen, str((each.get("context") or {}).get("namespace") or "default")
    return chosen, "default"


def _documents(files: str) -> Iterator[Raw]:
    """What is in those of the files that exist."""
    for name in files.split(os.pathsep):
        if name and (path := Path(name).expanduser()).exists():
            yield yaml.safe_load(path.read_text()) or {}


def _kubernetes() -> tuple[Any, Any]:
    try:
        from kubernetes import client, config
    except ModuleNotFoundError as error:
        raise ImportError("Cluster needs kubernetes: pip install 'batchwright[sdk]'") from error
    return client, config
