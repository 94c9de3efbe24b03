"""LeNet-5 on downsampled ImageNet of 32x32 pixels (Chrabaszcz et al. 2017)."""

from __future__ import annotations

from paceline.models.lenet5 import LeNet5
from paceline.workloads.base import Workload, WorkloadRequest
from paceline.workloads.images import build_images


def build(request: WorkloadRequest) -> Workload:
    """The workload ``lenet5-imagenet32``."""
    return build_images(
        "lenet5-imagenet32",
        request,
        lambda data: LeNet5(in_channels=data.image_shape[0], num_classes=len(data.class_names)),
    )
