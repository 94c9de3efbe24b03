"""Logistic regression on handwritten digits: the convex workload."""

from __future__ import annotations

import math

from paceline.models.logreg import LogisticRegression
from paceline.workloads.base import Workload, WorkloadRequest
from paceline.workloads.images import build_images


def build(request: WorkloadRequest) -> Workload:
    """The workload ``logreg-mnist``."""
    return build_images(
        "logreg-mnist",
        request,
        lambda data: LogisticRegression(num_inputs=math.prod(data.image_shape), num_classes=len(data.class_names)),
    )
