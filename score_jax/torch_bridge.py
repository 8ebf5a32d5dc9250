"""A JAX classifier as a PyTorch module, so that the official PyTorch attacks can judge it.

Attacks shrink their batches as images fall. Every new batch size would compile the network anew,
so batches are padded to a short ladder of fixed sizes: at most two programs a rung, the forward
pass and its gradient, whatever sizes come.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax
import numpy as np
import torch
from torch import Tensor, nn

from score_jax.artifact import Artifact
from score_jax.types import Array, UserError

RANGE_TOLERANCE = 1e-5  # Rounding of an attack's last clip; beyond it the input is not an image.
LOGIT_TOLERANCE = 1e-4  # Relative to the largest logit; f32 sums in another order differ by 1e-6.
SMALLEST_RUNG = 16


def ladder(batch_size: int) -> tuple[int, ...]:
    """The padded sizes, ascending: batch_size times 1, 3/4, 1/2, 3/8, 1/4, ...

    A batch above the smallest rung is never padded by more than half of itself, and the rungs of a
    batch of 500 are eleven.
    """
    rungs, size = {batch_size}, batch_size
    while size > SMALLEST_RUNG:
        rungs |= {-(-3 * size // 4), -(-size // 2)}
        size = -(-size // 2)
    return tuple(sorted(rungs))


@dataclass(frozen=True)
class Exchange:
    """How tensors become arrays and results become tensors that torch may write to."""

    to_jax: Callable[[Tensor], Array | np.ndarray]
    to_torch: Callable[[Array, torch.device], Tensor]


# NumPy shares CPU memory as DLPack does and costs a third less a call; it serves TPUs too.
THROUGH_HOST = Exchange(
    to_jax=lambda tensor: tensor.detach().cpu().contiguous().numpy(),
    to_torch=lambda array, device: torch.from_numpy(np.array(array)).to(device),
)
# The clone is needed: PyTorch would otherwise write into a buffer that JAX holds as constant.
THROUGH_DLPACK = Exchange(
    to_jax=lambda tensor: jax.dlpack.from_dlpack(tensor.detach().contiguous()),
    to_torch=lambda array, device: torch.from_dlpack(array.block_until_ready()).detach().clone(),
)


def exchange_for(device: torch.device) -> Exchange:
    """DLPack where both libraries use the same GPU, else the host's memory."""
    same_gpu = device.type == "cuda" and jax.default_backend() == "gpu"
    return THROUGH_DLPACK if same_gpu else THROUGH_HOST


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(context, images, classifier):
        context.save_for_backward(images)
        context.classifier = classifier
        return classifier.logits(images)

    @staticmethod
    def backward(context, cotangent):
        (images,) = context.saved_tensors
        return context.classifier.pull_back(images, cotangent), None


class TorchClassifier(nn.Module):
    """Images f32[b, c, h, w] in [0, 1] to logits f32[b, k], through JAX, with their gradient.

    Attributes:
      compilations: programs compiled so far; at most 2 * len(rungs).
      rungs: the sizes that batches are padded to.
    """

    def __init__(self, artifact: Artifact, *, batch_size: int = 500):
        """batch_size: images computed at once; larger batches are cut.

        Raises:
          UserError: batch_size is not positive.
        """
        super().__init__()
        self.resize(batch_size)
        self.compilations = 0
        height, width, channels = artifact.classifier.image_shape
        self.image_shape = (channels, height, width)
        self._variables = jax.device_put(
            {"params": artifact.params, "batch_stats": artifact.batch_stats}
        )

        def forward(variables, images):
            return artifact.classifier.logits(**variables, images=images.transpose(0, 2, 3, 1))

        def logits(variables, images):
            self.compilations += 1  # The body runs once, when a new shape is traced.
            return forward(variables, images)

        def pull_back(variables, images, cotangent):
            self.compilations += 1
            _, vjp = jax.vjp(lambda given: forward(variables, given), images)
            return vjp(cotangent)[0]

        self._logits, self._pull_back = jax.jit(logits), jax.jit(pull_back)

    @property
    def batch_size(self) -> int:
        """Images computed at once."""
        return self.rungs[-1]

    def resize(self, batch_size: int) -> None:
        """Computes so many images at once from now on; programs of other sizes are kept.

        Raises:
          UserError: batch_size is not positive.
        """
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size} is not positive; use 500 or fewer images.")
        self.rungs = ladder(batch_size)

    def forward(self, images: Tensor) -> Tensor:
        """Raises: UserError: not images f32[b, c, h, w] in [0, 1]."""
        self._check(images)
        return _Through.apply(images, self)

    def logits(self, images: Tensor) -> Tensor:
        """f32[b, k], without the range check and without a gradient."""
        return self._run(self._logits, images)

    def pull_back(self, images: Tensor, cotangent: Tensor) -> Tensor:
        """f32[b, c, h, w]: the gradient of sum(cotangent * logits) with respect to the images."""
        return self._run(self._pull_back, images, cotangent)

    def _run(self, program: Callable[..., Array], *inputs: Tensor) -> Tensor:
        exchange = exchange_for(inputs[0].device)
        results = []
        for start, stop, rung in self._cut(len(inputs[0])):
            padded = (_pad(tensor[start:stop], rung) for tensor in inputs)
            result = program(self._variables, *map(exchange.to_jax, padded))
            results.append(exchange.to_torch(result, inputs[0].device)[: stop - start])
        return results[0] if len(results) == 1 else torch.cat(results)

    def _cut(self, count: int) -> Iterator[tuple[int, int, int]]:
        """(start, stop, padded size) of each part of a batch; an empty batch is one part."""
        for start in range(0, max(count, 1), self.rungs[-1]):
            stop = min(start + self.rungs[-1], count)
            yield start, stop, next(rung for rung in self.rungs if rung >= stop - start)

    def _check(self, images: Tensor) -> None:
        if images.dtype != torch.float32 or tuple(images.shape[1:]) != self.image_shape:
            raise UserError(
                f"images are {images.dtype} of shape {tuple(images.shape)}; the model takes "
                f"torch.float32 of shape (b, {', '.join(map(str, self.image_shape))})."
            )
        if images.numel():
            low, high = map(float, torch.aminmax(images.detach()))
            if not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):
                raise UserError(
                    f"images lie in [{low:g}, {high:g}]; give them in [0, 1], not normalised: the "
                    "model normalises its input itself."
                )


def _pad(tensor: Tensor, size: int) -> Tensor:
    if len(tensor) == size:
        return tensor
    return torch.cat([tensor, tensor.new_zeros(size - len(tensor), *tensor.shape[1:])])


def check_logits(forward: Callable[[Tensor], Tensor], images: Tensor, num_classes: int) -> None:
    """Refuses a classifier whose results an attack would misjudge.

    Args:
      images: f32[b, c, h, w] in [0, 1], some dozen.

    Raises:
      UserError: another number of classes, NaN, probabilities, results that change between two
        passes or with the batch size, or an input gradient that is not finite or zero everywhere.
    """
    with torch.no_grad():
        logits = forward(images)
        if logits.shape != (len(images), num_classes):
            raise UserError(
                f"the classifier returned shape {tuple(logits.shape)} for {len(images)} images; "
                f"expected ({len(images)}, {num_classes}) from num_classes of model.json."
            )
        if not torch.isfinite(logits).all():
            raise UserError("the classifier returned NaN or infinite logits; check its weights.")
        in_range = bool((logits >= -1e-5).all() and (logits <= 1 + 1e-5).all())
        if in_range and bool(((logits.sum(1) - 1).abs() < 1e-4).all()):
            raise UserError(
                "the classifier returned probabilities, AutoAttack needs logits; drop the softmax."
            )
        allowed = LOGIT_TOLERANCE * max(1.0, float(logits.abs().max()))
        part = max(1, len(images) // 3)
        for what, other, base in (
            ("two passes over the same images", forward(images), logits),
            (f"batches of {len(images)} and {part}", forward(images[:part]), logits[:part]),
        ):
            difference = float((other - base).abs().max())
            if not difference <= allowed:
                raise UserError(
                    f"logits differ by {difference:.2g} between {what}; the classifier is random "
                    "or normalises by the batch: use running statistics and no dropout."
                )
    _check_gradient(forward, images)


def _check_gradient(forward: Callable[[Tensor], Tensor], images: Tensor) -> None:
    images = images.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = forward(images)
        top_two = logits.topk(min(2, logits.shape[1]), dim=1).values
        (gradient,) = torch.autograd.grad((top_two[:, 0] - top_two[:, -1]).sum(), images)
    if not torch.isfinite(gradient).all() or not gradient.any():
        raise UserError(
            "the gradient of the logits with respect to the images is zero or not finite; "
            "gradient attacks would prove nothing about this classifier."
        )
