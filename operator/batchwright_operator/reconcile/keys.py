"""The keys that reconcilers work by."""

from __future__ import annotations

from typing import Final

MODEL_DEPLOYMENT_RECONCILER: Final = "modeldeployment"


INFERENCE_JOB_RECONCILER: Final = "inferencejob"
