"""The keys that reconcilers work by."""

from __future__ import annotations

from typing import Final

MODEL_DEPLOYMENT_DOMAIN: Final = "modeldeployment"


INFERENCE_JOB_DOMAIN: Final = "inferencejob"
