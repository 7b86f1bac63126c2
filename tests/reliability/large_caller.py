"""A process that sends one large body after the other: `python -m tests.reliability.large_caller PORT MODEL KIND`."""

from __future__ import annotations

import http.client
import json
import struct
import sys

STRINGS = 500_000
NUMBERS = 380_000


def strings() -> tuple[bytes, dict[str, str]]:
    """4.5 MB of short strings, as binary data both ways."""
    data = (struct.pack("<I", 5) + b"abcde") * STRINGS
    tensor = {"name": "x", "datatype": "BYTES", "shape": [1, STRINGS], "parameters": {"binary_data_size": len(data)}}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return header + data, {"Inference-Header-Content-Length": str(len(header))}


def numbers() -> tuple[bytes, dict[str, str]]:
    """7.5 MB of JSON both ways."""
    data = [0.1234567890123456 + number for number in range(NUMBERS)]
    tensor = {"name": "x", "datatype": "FP64", "shape": [1, NUMBERS], "data": data}
    return json.dumps({"inputs": [tensor]}).encode(), {}


KINDS = {"strings": strings, "numbers": numbers}


def main(port: int, model: str, kind: str) -> None:
    """Until it is killed; a line for each response, its status."""
    body, headers = KINDS[kind]()
    connection = http.client.HTTPConnection("127.0.0.1", port)
    while True:
        connection.request("POST", f"/v2/models/{model}/infer", body, headers)
        response = connection.getresponse()
        response.read()
        print(response.status, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
