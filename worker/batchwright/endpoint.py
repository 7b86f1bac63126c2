"""A served model as a function of arrays: the Open Inference Protocol over HTTP, tensors as bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from batchwright_worker.oip.datatypes import name_of
from batchwright_worker.oip.http_tensors import HEADER_LENGTH, array_of, infer_response, raw_of

_BUSY = (408, 503)


class InferenceFailed(Exception):  # noqa: N818 - what happened to the request
    """The server's own words; `status` is HTTP's (0: nobody answered), `retry_after_s` when it wants to be asked again
    (None: it did not say)."""

    def __init__(self, status: int, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


class Endpoint:
    """Models at `url` (`http://NAME.NAMESPACE.svc:8000` in a cluster). Connections are kept, threads may share it.

    `retries`: how often a request that a busy server turns away is sent again, when the server says it may be.
    `timeout_s`: of each try, to connect and for silence.
    `ca_file`: who signs its certificate, for https of one's own authority; `cert_file` and `key_file`: what it is to
    be shown where it asks for a certificate. `headers` go with every call (a token for the Gateway in front of it).
    """

    def __init__(  # noqa: PLR0913 - each is an option of the connection
        self,
        url: str,
        *,
        retries: int = 3,
        timeout_s: float = 60.0,
        ca_file: str | None = None,
        cert_file: str | None = None,
        key_file: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        import urllib3

        self._url = url.rstrip("/")
        self._headers = dict(headers or {})
        # Inference changes nothing, so that a POST may be repeated too.
        retry = urllib3.Retry(
            total=retries, status_forcelist=_BUSY, allowed_methods=None, respect_retry_after_header=True,
            backoff_factor=0.1, raise_on_status=False,
        )  # fmt: skip
        self._pool = urllib3.PoolManager(
            retries=retry, timeout=timeout_s, maxsize=16, ca_certs=ca_file, cert_file=cert_file, key_file=key_file
        )

    def metadata(self, model: str) -> dict[str, Any]:
        """Inputs and outputs: name, datatype, shape. Raises InferenceFailed."""
        body, _ = self._request("GET", f"/v2/models/{quote(model, safe='')}")
        try:
            return msgspec.json.decode(body, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise self._foreign(error) from error

    def infer(
        self,
        model: str,
        inputs: Mapping[str, ArrayLike],
        *,
        outputs: Sequence[str] = (),
        parameters: Mapping[str, Any] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Named arrays in, the first dimension the batch; named arrays out (`outputs`: only these). Texts are arrays
        of str or bytes, and come back as bytes. Raises InferenceFailed; ValueError for what no datatype holds."""
        if isinstance(outputs, str):
            raise TypeError(f"outputs is the text {outputs!r}: wanted a list of names")
        header: dict[str, Any] = {"inputs": [], "parameters": {"binary_data_output": True, **(parameters or {})}}
        if outputs:
            header["outputs"] = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
        raw = []
        for name, value in inputs.items():
            datatype, array, tensor = _tensor(name, value)
            raw.append(tensor)
            header["inputs"].append(
                {"name": name, "datatype": datatype, "shape": list(array.shape),
                 "parameters": {"binary_data_size": len(raw[-1])}}
            )  # fmt: skip
        text = json.dumps(header).encode()
        headers = {HEADER_LENGTH: str(len(text)), "content-type": "application/octet-stream"}
        path = f"/v2/models/{quote(model, safe='')}/infer"
        body, answered = self._request("POST", path, b"".join([text, *raw]), headers)
        try:
            return _arrays(body, answered.get(HEADER_LENGTH))
        except (msgspec.MsgspecError, ValueError) as error:
            raise self._foreign(error) from error

    def _request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[bytes, Mapping[str, str]]:
        import urllib3

        try:
            given = self._headers | dict(headers or {})
            response = self._pool.request(method, self._url + path, body=body or None, headers=given)
        except urllib3.exceptions.HTTPError as error:
            raise InferenceFailed(0, f"{self._url} does not answer: {error}") from error
        if response.status >= 400:
            wait = response.headers.get("retry-after", "")
            retry_after_s = float(wait) if wait.isdigit() else None
            raise InferenceFailed(response.status, _said(response.data), retry_after_s)
        return response.data, response.headers

    def _foreign(self, error: Exception) -> InferenceFailed:
        """Of an answer that says it is right, as a page of a proxy may."""
        return InferenceFailed(0, f"{self._url} answers in no Open Inference Protocol: {error}")


def _tensor(name: str, value: ArrayLike) -> tuple[str, NDArray[Any], bytes]:
    """Datatype, array and bytes. Raises ValueError."""
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(  # noqa: TRY004 - it is an array, with values that cannot be sent
            f"input {name!r} is a masked array, which hides values; fill it: x.filled(0)"
        )
    try:
        array = np.asarray(value)
        datatype = name_of(array.dtype)
        return datatype, array, bytes(raw_of(datatype, array))
    except ValueError as error:
        raise ValueError(f"input {name!r}: {error}") from error


def _arrays(body: bytes, header_length: str | None) -> dict[str, NDArray[Any]]:
    end = len(body) if header_length is None else int(header_length)
    found, position = {}, end
    for tensor in infer_response(body[:end]).outputs:
        found[tensor.name], position = array_of(tensor, body, position)
    return found


def _said(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (KeyError, TypeError, ValueError):
        return body[:200].decode(errors="replace")
