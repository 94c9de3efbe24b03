"""ResNet-20 with group normalization on downsampled ImageNet of 32x32 pixels."""

from __future__ import annotations

from paceline.models.resnet20 import ResNet20
from paceline.workloads.base import Workload, WorkloadRequest
from paceline.workloads.images import build_images


def build(request: WorkloadRequest) -> Workload:
    """The workload ``resnet20-imagenet32``."""
    return build_images(
        "resnet20-imagenet32",
        request,
        lambda data: ResNet20(in_channels=data.image_shape[0], num_classes=len(data.class_names)),
    )
