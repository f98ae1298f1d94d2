"""What a swap of ReLU found and did."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ReLUReport", "ReLUSite"]


@dataclass(frozen=True)
class ReLUSite:
    """One call site of a ReLU.

    Args:
        name: where its layer is or would be in the model, such as ``layer1.0.relu.1``; of a site that is left: the
            module and what it calls.
        kind: "nn.ReLU", "nn.ReLU6", "F.relu", "F.relu6", "torch.relu", "Tensor.relu" or one of these with ``_``.
        shape: of its input in the recording pass, without the batch.
        dim: dimension of the channels in the input with its batch; -1 for the last of more than two.
        order: its place in the order of execution, from 0; auxiliary heads count. -1: not reached.
        inplace: whether it writes into its input.

    Example:
        >>> ReLUSite("relu", "nn.ReLU", (64, 8, 8), 1, 0, True).channels
        64
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dim: int
    order: int
    inplace: bool

    @property
    def channels(self) -> int:
        """The number of channels of the input."""
        if not self.shape:
            return 1
        return self.shape[-1] if self.dim < 0 else self.shape[max(self.dim - 1, 0)]

    @property
    def six(self) -> bool:
        """Whether it is ReLU6."""
        return self.kind.rstrip("_").endswith("6")


@dataclass(frozen=True)
class ReLUReport:
    """What :func:`mixaug.replace_relu` found; ``print`` it for a table.

    Args:
        swapped: the sites that have another layer now, in order of execution, those of earlier calls too.
        left: the sites that are still ReLU, each with the reason.
        count: how many sites this call swapped.

    Example:
        >>> site = ReLUSite("relu", "nn.ReLU", (64, 8, 8), 1, 0, True)
        >>> print(ReLUReport((), ((site, "not chosen"),), 0))
        0 sites swapped in this call, 0 in all, 1 left
        left     relu  nn.ReLU  64x8x8  not chosen
    """

    swapped: tuple[ReLUSite, ...]
    left: tuple[tuple[ReLUSite, str], ...]
    count: int

    def __str__(self) -> str:
        rows = [("swapped", s, "in place" if s.inplace else "") for s in self.swapped]
        rows += [("left", site, reason) for site, reason in self.left]
        sizes = ["x".join(map(str, site.shape)) for _, site, _ in rows]
        name, kind, size = (
            max((len(text) for text in column), default=0)
            for column in ([s.name for _, s, _ in rows], [s.kind for _, s, _ in rows], sizes)
        )
        lines = [
            f"{what:<7}  {site.name:<{name}}  {site.kind:<{kind}}  {shape:<{size}}  {more}".rstrip()
            for (what, site, more), shape in zip(rows, sizes, strict=True)
        ]
        plural = "site" if self.count == 1 else "sites"
        head = f"{self.count} {plural} swapped in this call, {len(self.swapped)} in all, {len(self.left)} left"
        return "\n".join([head, *lines])
