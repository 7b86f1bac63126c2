"""A runtime process whose torch models run as on a GPU, with `CpuDevice` in CUDA's place: `python FILE SOCKET`."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> None:
    from batchwright_worker.backends import torch as backend
    from batchwright_worker.backends.torch_device import DeviceModel
    from batchwright_worker.host.process import die_with_parent
    from batchwright_worker.runtime.process import serve
    from batchwright_worker.runtime.supervisor import listen
    from tests.backends.test_torch_device import CpuDevice

    die_with_parent(int(sys.argv[2]))
    backend._on = lambda _device, call, inputs, outputs, piece=0: DeviceModel(call, inputs, outputs, CpuDevice(), piece)
    with listen(Path(sys.argv[1])) as listener:
        serve(listener, os.open(os.devnull, os.O_WRONLY))


if __name__ == "__main__":
    main()
