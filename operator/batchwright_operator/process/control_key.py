"""The control key: the operator derives the tokens of all control ports from it. A Secret in its namespace holds it.

Derived tokens need no reading of Secrets in users' namespaces: the operator only applies them there.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from typing import Final

from batchwright_operator.errors import AlreadyExists, NotFound, SettingsError
from batchwright_operator.kube.client import ApiClient
from batchwright_operator.kube.objects import SECRET, Raw

KEY_BYTES: Final = 32


async def load_control_key(client: ApiClient, namespace: str, name: str) -> bytes:
    """The control key; made on the first start. Raises ApiError, and SettingsError for a broken Secret."""
    try:
        return key_of(await client.get(SECRET, namespace, name))
    except NotFound:
        pass
    body: Raw = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "type": "Opaque",
        "data": {"key": base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()},
    }
    try:
        return key_of(await client.create(SECRET, body))
    except AlreadyExists:  # another replica was faster: its key is the one
        return key_of(await client.get(SECRET, namespace, name))


def key_of(secret: Raw) -> bytes:
    """The key in a Secret. Raises SettingsError for a Secret without one."""
    try:
        key = base64.b64decode((secret.get("data") or {})["key"], validate=True)
    except (KeyError, binascii.Error):
        key = b""
    if len(key) < KEY_BYTES:
        metadata = secret["metadata"]
        raise SettingsError(
            f"Secret {metadata['namespace']}/{metadata['name']} has no data.key of at least {KEY_BYTES} bytes; "
            "delete it, and the operator makes a new one"
        )
    return key
