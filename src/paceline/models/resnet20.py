"""ResNet-20 for small images, with group normalization (He et al. 2016, section 4.2; Wu and He 2018)."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

NUM_GROUPS = 8  # of channels in a normalization; 16 channels leave two a group


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters (option A of the paper)."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.stride, self.added_channels = stride, out_channels - in_channels
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(NUM_GROUPS, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(NUM_GROUPS, out_channels)

    def forward(self, maps: Tensor) -> Tensor:
        out = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(maps)))))
        shortcut = maps[:, :, :: self.stride, :: self.stride]
        if self.added_channels:
            shortcut = functional.pad(shortcut, (0, 0, 0, 0, 0, self.added_channels))
        return functional.relu(out + shortcut)


class ResNet20(nn.Module):
    """6n + 2 layers, n = 3, of 16, 32 and 64 channels.

    Input: shape (batch, channels, side, side). Output: logits of shape (batch, classes).
    Departs: GroupNorm in place of BatchNorm, so that one rank and N ranks compute the same function.
    """

    def __init__(self, *, in_channels: int, num_classes: int) -> None:
        super().__init__()
        widths = [16] * 4 + [32] * 3 + [64] * 3
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, 16, 3, padding=1, bias=False), nn.GroupNorm(NUM_GROUPS, 16), nn.ReLU()
        )
        self.blocks = nn.Sequential(
            *(_Block(before, after, stride=1 if before == after else 2) for before, after in pairwise(widths))
        )
        self.classifier = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch of images."""
        logits: Tensor = self.classifier(self.blocks(self.stem(images)).mean((2, 3)))
        return logits
