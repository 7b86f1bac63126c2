"""What runs in Batchwright's pods (sidecar, runtime, runner, benchmark, agent, fetch), and `serve` and `run`."""

import os

# onnxruntime reports its use to its vendor unless it is told not to before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
