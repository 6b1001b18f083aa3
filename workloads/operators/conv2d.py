"""Two-dimensional convolution."""

from dataclasses import dataclass

import jax

from workloads.dtypes import element_bytes
from workloads.numeric import Array, namespace
from workloads.operators.operator import Operator, static


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Conv2d(Operator):
    """out[b, k, p, q] = sum over c, r, s of x[b, c, p stride + r dilation - padding, ...] w[k, c, r, s].

    `groups` = channels gives a depthwise convolution. `padding` = -1 means "same" for stride 1: dilation (kernel -
    1) / 2. FLOPs: 2 b k p q (c / groups) r s. Bytes: input, weight and output once each.
    """

    batch: Array
    channels: Array
    filters: Array
    height: Array
    width: Array
    kernel_h: Array
    kernel_w: Array
    stride: Array = 1
    dilation: Array = 1
    padding: Array = -1
    groups: Array = 1
    dtype: str = static("bf16")

    kind = "conv2d"
    unit = "matrix"

    def _extent(self, size: Array, kernel: Array) -> Array:
        xp = namespace(self.padding, self.dilation, kernel, size, self.stride)
        reach = self.dilation * (xp.asarray(kernel) - 1)
        padding = xp.where(xp.asarray(self.padding) >= 0, self.padding, reach // 2)
        return xp.maximum(xp.floor((size + 2.0 * padding - reach - 1.0) / self.stride) + 1.0, 0.0)

    @property
    def out_height(self) -> Array:
        return self._extent(self.height, self.kernel_h)

    @property
    def out_width(self) -> Array:
        return self._extent(self.width, self.kernel_w)

    @property
    def flops(self) -> Array:
        points = 1.0 * self.batch * self.filters * self.out_height * self.out_width
        return 2.0 * points * self.channels / self.groups * self.kernel_h * self.kernel_w

    @property
    def reads(self) -> dict[str, Array]:
        size = element_bytes(self.dtype)
        weight = 1.0 * self.filters * self.channels / self.groups * self.kernel_h * self.kernel_w
        return {"x": 1.0 * self.batch * self.channels * self.height * self.width * size, "w": weight * size}

    @property
    def writes(self) -> dict[str, Array]:
        out = 1.0 * self.batch * self.filters * self.out_height * self.out_width
        return {"out": out * element_bytes(self.dtype)}
