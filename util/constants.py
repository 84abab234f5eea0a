"""Tables that a model needs in every step, kept on the device."""

from collections.abc import Callable
from functools import lru_cache, wraps

import numpy as np
import paddle

MOST = 256  # tables of a kind


def kept(make: Callable[..., paddle.Tensor | np.ndarray]) -> Callable[..., paddle.Tensor]:
    """A decorator: the tensor of what a function gives, made once for the same arguments.

    Otherwise each step would copy it to the device. Nobody may change the tensor. A static graph
    gets one of its own.
    """

    def made(*args) -> paddle.Tensor:
        with paddle.no_grad():
            table = make(*args)
            return table if isinstance(table, paddle.Tensor) else paddle.to_tensor(table)

    @lru_cache(MOST)
    def on_device(device: str, *args) -> paddle.Tensor:
        return made(*args)

    @wraps(make)
    def tensor(*args) -> paddle.Tensor:
        if paddle.in_dynamic_mode():
            return on_device(paddle.device.get_device(), *args)
        return made(*args)

    return tensor
