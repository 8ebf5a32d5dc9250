"""Batches that fit into memory: how many images the network takes at once, whatever is asked of it.

An attack hands over all the images of its chunk. How many of them one pass computes changes neither
what is drawn at random nor which images are attacked; logits change by rounding at most.
"""

import gc
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from score_jax.torch_bridge import TorchClassifier
from score_jax.types import UserError

Result = TypeVar("Result")

OUT_OF_MEMORY = re.compile(
    r"out of memory|RESOURCE_EXHAUSTED|ALLOC_FAILED|can't allocate memory|not enough memory",
    re.IGNORECASE,
)


class _InParts(torch.autograd.Function):
    @staticmethod
    def forward(context, images, network, batch_size):
        context.save_for_backward(images)
        context.network, context.batch_size = network, batch_size
        return torch.cat([network(part) for part in images.split(batch_size)])

    @staticmethod
    def backward(context, cotangent):
        (images,), size = context.saved_tensors, context.batch_size
        gradients = []
        for part, weights in zip(images.split(size), cotangent.split(size), strict=True):
            with torch.enable_grad():
                part = part.detach().requires_grad_()
                gradients.append(torch.autograd.grad(context.network(part), part, weights)[0])
        return torch.cat(gradients), None, None


class InParts(nn.Module):
    """A network of which no pass, forward or backward, computes more than batch_size images.

    A batch that fits is handed on as it is. A larger one is cut, and the backward pass computes
    each part anew, so that no more than one part is ever held.
    """

    def __init__(self, network: nn.Module, batch_size: int):
        super().__init__()
        self.network, self.batch_size = network, batch_size

    def resize(self, batch_size: int) -> None:
        """Computes so many images at once from now on."""
        self.batch_size = batch_size

    def forward(self, images: Tensor) -> Tensor:
        """f32[b, c, h, w] to f32[b, k]."""
        if len(images) <= self.batch_size:
            return self.network(images)
        return _InParts.apply(images, self.network, self.batch_size)


Limited = InParts | TorchClassifier


def limited(network: nn.Module, batch_size: int) -> Limited:
    """The network with a `batch_size` that `resize` changes; the bridge cuts its batches itself."""
    if isinstance(network, TorchClassifier):
        network.resize(batch_size)
        return network
    return InParts(network, batch_size)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch, JAX or the host had no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # JAX's own error is a RuntimeError that names the status.
    return isinstance(error, RuntimeError) and bool(OUT_OF_MEMORY.search(str(error)))


@dataclass
class BatchSize:
    """How many images something computes at once."""

    batch_size: int

    def resize(self, batch_size: int) -> None:
        self.batch_size = batch_size


def within_memory(
    network: Limited | BatchSize,
    work: Callable[[], Result],
    tell: Callable[[str], None],
) -> Result:
    """What `work` returns, done again from its start with half the batch wherever memory ran out.

    Raises:
      UserError: one image at a time is still too much.
    """
    while True:
        try:
            return work()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = " ".join(str(error).split())[:120]
        # Outside of the handler, whose traceback holds what the failed pass computed.
        if network.batch_size == 1:
            raise UserError(
                f"out of memory with one image at a time ({reason}); use a smaller --chunk_size, "
                "or a device with more memory."
            )
        smaller = network.batch_size // 2
        tell(f"out of memory with {network.batch_size} images at a time; going on with {smaller}")
        network.resize(smaller)
        gc.collect()
        torch.cuda.empty_cache()
