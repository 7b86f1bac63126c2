"""The configuration that pods serve by and take over as they run, and how many of them do; pure.

docs/design/0006 has the way that it goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from batchwright_operator.deployments.children import configuration_text
from batchwright_operator.deployments.facts import DeploymentFacts
from batchwright_operator.deployments.replicas import Replica, config_of
from batchwright_operator.deployments.revision import Revision
from batchwright_operator.kube.conditions import Condition, few, shorten
from batchwright_operator.kube.metadata import controller_of
from batchwright_operator.kube.objects import CONFIG_MAP, MODEL_DEPLOYMENT, Raw
from batchwright_operator.pods.configuration_sender import ConfigurationText
from batchwright_operator.reconcile.decisions import Key
from batchwright_operator.reconcile.interfaces import StoreView
from batchwright_worker.api.names import configuration_digest

CONFIGURED: Final = "Configured"


@dataclass(slots=True)
class LiveTexts:
    """The texts of ConfigMaps that pods take over as they run; each is digested once. `look_anew` before each look."""

    _known: dict[tuple[str, str], tuple[str, ConfigurationText]] = field(default_factory=dict)
    _before: dict[tuple[str, str], tuple[str, ConfigurationText]] = field(default_factory=dict)

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._known.keys() | self._before.keys())

    def look_anew(self) -> None:
        """A look begins. What the last one did not ask for is forgotten: its pods are gone."""
        self._before, self._known = self._known, {}

    def of(self, store: StoreView, key: Key, name: str) -> ConfigurationText | None:
        """None: there is none (yet) that is ours, or its pods read it but once."""
        raw = store.get(CONFIG_MAP, key.namespace, name)
        if raw is None or raw.get("immutable") or not _is_of(raw, key):
            return None
        version, at = str(raw["metadata"].get("resourceVersion", "")), (key.namespace, name)
        known = self._known.get(at) or self._before.get(at)
        if known is None or known[0] != version:
            known = version, _text_of(raw)
        self._known[at] = known
        return known[1]


def _is_of(raw: Raw, key: Key) -> bool:
    owner = controller_of(raw)
    return owner is not None and (owner.get("kind"), owner.get("name")) == (MODEL_DEPLOYMENT.kind, key.name)


def _text_of(raw: Raw) -> ConfigurationText:
    text = configuration_text(raw)
    return ConfigurationText(text=text, digest=configuration_digest(text.encode()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Configured:
    """Which replicas, by the states of their sidecars, serve by the newest configuration of their template.

    `newest`: how many. `behind`: names of those that do not yet. `silent`: of those that do not tell, being of an older
    version. `refused`: why one of them does not take it over."""

    newest: int
    behind: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    refused: str = ""


def configured(facts: DeploymentFacts, revisions: Sequence[Revision], configurations: Sequence[Raw]) -> Configured:
    """`configurations`: the ConfigMaps that there are to be."""
    current = {config_of(each.template["spec"]) for each in revisions}
    wanted = {each["metadata"]["name"]: _text_of(each).digest for each in configurations if not each.get("immutable")}
    newest, behind, silent, refused = 0, [], [], ""
    for each in (one for one in facts.present if one.serves_state):
        state = each.state.configuration if each.state is not None else None
        if each.config not in wanted:
            newest += each.config in current  # what is not in force in others is so with their replacement
        elif each.state is None:
            continue
        elif state is None:
            silent.append(each.name)
        elif state.digest == wanted[each.config]:
            newest += 1
        else:
            behind.append(each.name)
            refused = refused or _refusal(each, state.message)
    return Configured(newest=newest, behind=tuple(behind), silent=tuple(silent), refused=refused)


def _refusal(replica: Replica, message: str) -> str:
    return f"{replica.name}: {shorten(message, 300)}" if message else ""


def configured_condition(found: Configured) -> Condition:
    """Do all replicas serve by the newest targets, limits and bounds of batches?"""
    if found.refused:
        return Condition(type=CONFIGURED, status="False", reason="Refused", message=found.refused)
    if found.behind:
        text = f"{few(found.behind)} {'does' if len(found.behind) == 1 else 'do'} not serve by the newest targets yet"
        return Condition(type=CONFIGURED, status="False", reason="Sending", message=text)
    if found.silent:
        text = (
            f"{few(found.silent)} {'does' if len(found.silent) == 1 else 'do'} not tell by which targets: a sidecar of "
            "an older version, which takes over a change when it starts"
        )
        return Condition(type=CONFIGURED, status="Unknown", reason="OlderSidecar", message=text)
    text = "every replica serves by the newest targets, limits and bounds of batches"
    return Condition(type=CONFIGURED, status="True", reason="UpToDate", message=text)
