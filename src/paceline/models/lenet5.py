"""LeNet-5: three 5x5 convolutions with tanh and average pooling, two linear layers (LeCun et al. 1998, figure 2)."""

from __future__ import annotations

from torch import Tensor, nn


class LeNet5(nn.Module):
    """LeNet-5 for images of 32x32 pixels or more.

    Input: shape (batch, channels, side, side), side >= 32. Output: logits of shape (batch, classes).
    Departs: all feature maps of a layer see all of the one before; softmax instead of radial units; where the third
    convolution leaves more than one pixel (side > 32), its maps are averaged over them.
    """

    def __init__(self, *, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 6, 5),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Conv2d(16, 120, 5),
            nn.Tanh(),
        )
        self.classifier = nn.Sequential(nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch of images."""
        maps = self.features(images)
        pooled = maps.flatten(1) if maps.shape[-1] == 1 else maps.mean((2, 3))
        logits: Tensor = self.classifier(pooled)
        return logits
