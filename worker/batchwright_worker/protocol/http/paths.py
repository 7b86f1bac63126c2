"""Every path of the inference port, once: docs/openapi.yaml describes these and no others (a test compares them)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic, Literal, TypeVar

A = TypeVar("A")
Answer = Literal[
    "config",
    "index",
    "infer",
    "live",
    "load",
    "log_settings",
    "metrics",
    "model",
    "model_ready",
    "ready",
    "region_register",
    "region_status",
    "region_unregister",
    "server",
    "statistics",
    "trace_settings",
    "unload",
]
"""Who answers, as `routes` names its handlers."""
Method = Literal["GET", "POST", "GET or POST"]
ALLOWED: Final[dict[str, tuple[str, ...]]] = {
    "GET": ("GET", "HEAD"),
    "POST": ("POST",),
    "GET or POST": ("GET", "HEAD", "POST"),
}
"""HEAD is answered wherever GET is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a path names; empty where it names none. `kind` is that of a shared memory region."""

    model: str = ""
    version: str = ""
    region: str = ""
    kind: str = ""


@dataclass(frozen=True, slots=True)
class PathTemplate(Generic[A]):
    """As OpenAPI writes it: `{model}` stands for one part of the path."""

    method: Method
    template: str
    answer: A
    kind: Literal["", "system", "cuda"] = ""

    @property
    def parts(self) -> tuple[str, ...]:
        """Without slashes."""
        return tuple(self.template.strip("/").split("/"))


class PathTable(Generic[A]):
    """Paths, of which the first one that matches counts."""

    def __init__(self, *paths: PathTemplate[A]) -> None:
        self.paths = paths
        self._by_length: dict[int, list[tuple[tuple[str, ...], PathTemplate[A]]]] = {}
        for each in paths:
            self._by_length.setdefault(len(each.parts), []).append((each.parts, each))

    def found(self, parts: Sequence[str]) -> tuple[PathTemplate[A], Target] | None:
        """The path with these parts, percent-decoded; None where there is nothing."""
        for wanted, path in self._by_length.get(len(parts), ()):
            named = {}
            for part, name in zip(parts, wanted, strict=True):
                if name[:1] == "{":
                    named[name[1:-1]] = part
                elif name != part:
                    break
            else:
                return path, Target(kind=path.kind, **named)
        return None


def _of_model(method: Method, rest: str, answer: Answer) -> tuple[PathTemplate[Answer], ...]:
    model = "/v2/models/{model}"
    versioned = f"{model}/versions/{{version}}"
    return tuple(PathTemplate(method, f"{before}{rest}", answer) for before in (model, versioned))


def _of_regions(kind: Literal["system", "cuda"]) -> tuple[PathTemplate[Answer], ...]:
    regions = f"/v2/{kind}sharedmemory"
    region = f"{regions}/region/{{region}}"
    return (
        PathTemplate("GET", f"{regions}/status", "region_status", kind),
        PathTemplate("GET", f"{region}/status", "region_status", kind),
        PathTemplate("POST", f"{region}/register", "region_register", kind),
        PathTemplate("POST", f"{regions}/unregister", "region_unregister", kind),
        PathTemplate("POST", f"{region}/unregister", "region_unregister", kind),
    )


PATHS: Final[PathTable[Answer]] = PathTable(
    PathTemplate("GET", "/v2", "server"),
    PathTemplate("GET", "/v2/health/live", "live"),
    PathTemplate("GET", "/v2/health/ready", "ready"),
    PathTemplate("GET", "/metrics", "metrics"),
    PathTemplate("GET", "/v2/models/stats", "statistics"),
    *_of_model("GET", "", "model"),
    *_of_model("GET", "/ready", "model_ready"),
    *_of_model("GET", "/config", "config"),
    *_of_model("GET", "/stats", "statistics"),
    *_of_model("POST", "/infer", "infer"),
    PathTemplate("POST", "/v2/repository/index", "index"),
    PathTemplate("POST", "/v2/repository/models/{model}/load", "load"),
    PathTemplate("POST", "/v2/repository/models/{model}/unload", "unload"),
    PathTemplate("GET or POST", "/v2/trace/setting", "trace_settings"),
    *_of_model("GET or POST", "/trace/setting", "trace_settings"),
    PathTemplate("GET or POST", "/v2/logging", "log_settings"),
    *_of_regions("system"),
    *_of_regions("cuda"),
)
