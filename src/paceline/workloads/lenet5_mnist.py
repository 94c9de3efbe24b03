"""LeNet-5 on handwritten digits, zero-padded to 32x32."""

from __future__ import annotations

from paceline.models.lenet5 import LeNet5
from paceline.workloads.base import Workload, WorkloadRequest
from paceline.workloads.images import build_images


def build(request: WorkloadRequest) -> Workload:
    """The workload ``lenet5-mnist``."""
    return build_images(
        "lenet5-mnist",
        request,
        lambda data: LeNet5(in_channels=data.image_shape[0], num_classes=len(data.class_names)),
    )
