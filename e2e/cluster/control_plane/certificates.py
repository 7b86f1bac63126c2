"""One certificate authority per cluster, and the certificates of everybody who speaks in it.

Every identity is a client certificate: the common name is the user, the organization is the group. There are
no tokens but those of service accounts.
"""

from dataclasses import dataclass
from pathlib import Path

import trustme

from e2e.cluster.machine.paths import write_private


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """A certificate and its private key, as files."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority whose files lie in one folder: ca.crt, ca.key and the pairs it issued."""

    def __init__(self, folder: Path) -> None:
        """Open the authority in `folder`, making it first where there is none."""
        self.folder = folder
        self.certificate = folder / "ca.crt"
        key = folder / "ca.key"
        if key.exists():
            self._ca = trustme.CA.from_pem(self.certificate.read_bytes(), key.read_bytes())
            return
        self._ca = trustme.CA()
        write_private(self.certificate, self._ca.cert_pem.bytes())
        write_private(key, self._ca.private_key_pem.bytes())

    def client(self, file: str, user: str, group: str = "batchwright") -> KeyPair:
        """A pair that authenticates as `user` in `group`; its files are named by `file`, a DNS label."""
        return self._issue(file, (file,), user, group)  # Go refuses a certificate with an empty list of names

    def server(self, file: str, *names: str, user: str | None = None, group: str | None = None) -> KeyPair:
        """A pair that serves at `names` (host names and addresses)."""
        return self._issue(file, names, user, group)

    def _issue(self, file: str, names: tuple[str, ...], user: str | None, group: str | None) -> KeyPair:
        leaf = self._ca.issue_cert(*names, common_name=user, organization_name=group)
        chain = b"".join(pem.bytes() for pem in leaf.cert_chain_pems)
        return KeyPair(
            certificate=write_private(self.folder / f"{file}.crt", chain),
            key=write_private(self.folder / f"{file}.key", leaf.private_key_pem.bytes()),
        )
