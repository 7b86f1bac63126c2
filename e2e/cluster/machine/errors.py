"""What can go wrong, by what the caller does next.

ClusterError
├── RequirementError   the machine lacks something: install it, or use kind
├── BuildError         a component or an image cannot be built: read its log
├── StartError         a process did not come up: read its log
├── NotFoundError      no such cluster or node: look at `status`
└── ApiError           the API server refused a call
"""


class ClusterError(Exception):
    """Something about the embedded cluster; `remedy` says what to do about it."""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(f"{message}\n  {remedy}" if remedy else message)
        self.remedy = remedy


class RequirementError(ClusterError):
    """The machine lacks a program, a privilege or a kernel feature."""


class BuildError(ClusterError):
    """A component did not compile."""


class StartError(ClusterError):
    """A process of the cluster did not come up in time."""


class NotFoundError(ClusterError):
    """There is no cluster, node or image of that name."""


class ApiError(ClusterError):
    """The API server answered a call with an error status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"the API server answered {status}: {message}")
        self.status = status
