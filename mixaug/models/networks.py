"""The networks of our own: LeNet-5 and the CIFAR forms of ResNet, Wide ResNet and ResNeXt.

Each takes normalised images (B, C, H, W) and returns logits (B, K). Those that pool globally take any image size;
the CIFAR forms keep the first stage at full resolution (a 3x3 stem, no pooling), which is what small images need.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["LeNet5", "ResNeXt", "ResidualNet", "WideResNet"]

_LENET_SIDE = 32  # LeNet-5 sees 32x32; smaller images are padded with zeros inside the first convolution


class LeNet5(nn.Module):
    """LeNet-5 with ReLU and max-pooling: two 5x5 convolutions, three dense layers.

    LeCun et al., "Gradient-based learning applied to document recognition", 1998. 61,706 parameters for 28x28 grey
    images and 10 classes. As is usual today: ReLU in place of tanh, max in place of average pooling, every feature map
    connected to all, a linear output.

    Args:
        num_classes: number of logits.
        in_channels: channels of the images.
        image_size: side of the square images in pixels, at least 12. Up to 28 the first convolution pads by 2.

    Raises:
        ValueError: the image is too small for two 5x5 convolutions with pooling.
    """

    def __init__(self, num_classes: int, in_channels: int = 1, image_size: int = 28) -> None:
        super().__init__()
        padding = 2 if image_size < _LENET_SIDE else 0
        side = ((image_size + 2 * padding - 4) // 2 - 4) // 2
        if side < 1:
            raise ValueError(f"image_size must be at least 12 for lenet5, got {image_size}")
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 6, 5, padding=padding),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(16 * side * side, 120),
            nn.ReLU(inplace=True),
            nn.Linear(120, 84),
            nn.ReLU(inplace=True),
            nn.Linear(84, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes) of images (B, in_channels, image_size, image_size)."""
        return self.classifier(self.features(images))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation and a shortcut: ``relu(f(x) + shortcut(x))``."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _projection(in_width, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, of the stride's resolution."""
        inner = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(inner)) + self.shortcut(x), inplace=True)


class ResidualNet(nn.Module):
    """CIFAR-form ResNet of basic blocks: a 3x3 stem at full resolution, then one stage per width.

    He et al., "Deep Residual Learning for Image Recognition", 2016, arXiv:1512.03385. ``widths=(64, 128, 256, 512)``
    with two blocks each is the ResNet-18 of the CIFAR papers (11.17 million parameters for 10 classes).

    Args:
        num_classes: number of logits.
        in_channels: channels of the images.
        widths: channels of each stage; every stage but the first halves the resolution.
        blocks: residual blocks per stage.
    """

    def __init__(self, num_classes: int, in_channels: int, widths: Sequence[int], blocks: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)
        )
        stages: list[nn.Module] = []
        width = widths[0]
        for stage, out_width in enumerate(widths):
            for block in range(blocks):
                stages.append(BasicBlock(width, out_width, stride=2 if stage and not block else 1))
                width = out_width
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(width, num_classes)
        _initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes)."""
        return self.fc(self.stages(self.stem(images)).mean((2, 3)))


class PreActivationBlock(nn.Module):
    """Batch normalisation and ReLU before each 3x3 convolution; a projection sees the activated input."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_width)
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.projection = (
            None if stride == 1 and in_width == width else nn.Conv2d(in_width, width, 1, stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, of the stride's resolution."""
        active = F.relu(self.bn1(x), inplace=True)
        shortcut = x if self.projection is None else self.projection(active)
        return self.conv2(F.relu(self.bn2(self.conv1(active)), inplace=True)) + shortcut


class WideResNet(nn.Module):
    """Wide ResNet-depth-width without dropout: WRN-40-4 has 8.9, WRN-28-10 36.5 million parameters for 10 classes.

    Zagoruyko and Komodakis, "Wide Residual Networks", 2016, arXiv:1605.07146.

    Args:
        num_classes: number of logits.
        in_channels: channels of the images.
        depth: convolutions in the main path; depth - 4 is a multiple of 6.
        width: factor on the widths 16, 32, 64 of the three stages.
    """

    def __init__(self, num_classes: int, in_channels: int, depth: int, width: int) -> None:
        super().__init__()
        if (depth - 4) % 6:
            raise ValueError(f"depth must be 6n + 4, got {depth}")
        self.stem = nn.Conv2d(in_channels, 16, 3, 1, 1, bias=False)
        stages: list[nn.Module] = []
        channels = 16
        for stage in range(3):
            out_channels = 16 * width * 2**stage
            for block in range((depth - 4) // 6):
                stages.append(PreActivationBlock(channels, out_channels, stride=2 if stage and not block else 1))
                channels = out_channels
        self.stages = nn.Sequential(*stages)
        self.bn = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, num_classes)
        _initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes)."""
        features = F.relu(self.bn(self.stages(self.stem(images))), inplace=True)
        return self.fc(features.mean((2, 3)))


class GroupedBottleneck(nn.Module):
    """ResNeXt's block: 1x1 down, grouped 3x3, 1x1 up to four times ``planes``, and a shortcut."""

    expansion = 4

    def __init__(self, in_width: int, planes: int, stride: int, groups: int, group_width: int) -> None:
        super().__init__()
        inner = groups * group_width * planes // 64
        out_width = planes * self.expansion
        self.conv1 = nn.Conv2d(in_width, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, out_width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_width)
        self.shortcut = _projection(in_width, out_width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, of the stride's resolution."""
        inner = F.relu(self.bn1(self.conv1(x)), inplace=True)
        inner = F.relu(self.bn2(self.conv2(inner)), inplace=True)
        return F.relu(self.bn3(self.conv3(inner)) + self.shortcut(x), inplace=True)


class ResNeXt(nn.Module):
    """CIFAR-form ResNeXt-29 (4x32d): three stages of three blocks, 6.8 million parameters for 10 classes.

    Xie et al., "Aggregated Residual Transformations for Deep Neural Networks", 2017, arXiv:1611.05431, in the size of
    AugMix (arXiv:1912.02781) and its successors: their "32x4" are 4 groups of 32 channels (6.81 million parameters for
    10 classes; 32 groups of 4 would be 4.78 million).

    Args:
        num_classes: number of logits.
        in_channels: channels of the images.
        blocks: blocks per stage; 3 gives 29 layers.
        groups: groups of the 3x3 convolution.
        group_width: channels of one group in the first stage.
    """

    def __init__(
        self, num_classes: int, in_channels: int, blocks: int = 3, groups: int = 4, group_width: int = 32
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)
        )
        stages: list[nn.Module] = []
        width = 64
        for stage, planes in enumerate((64, 128, 256)):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                stages.append(GroupedBottleneck(width, planes, stride, groups, group_width))
                width = planes * GroupedBottleneck.expansion
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(width, num_classes)
        _initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes)."""
        return self.fc(self.stages(self.stem(images)).mean((2, 3)))


def _projection(in_width: int, width: int, stride: int) -> nn.Module:
    if stride == 1 and in_width == width:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_width, width, 1, stride, bias=False), nn.BatchNorm2d(width))


def _initialise(model: nn.Module) -> None:
    """He's initialisation of the convolutions (fan out), zero bias of the output layer."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
