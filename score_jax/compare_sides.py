"""One network of a comparison: whichever framework computes it, the same questions, in NumPy.

Images are f32[b, h, w, c] in [0, 1] on both sides; layouts are changed here and nowhere else.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from torch.nn import functional

from score_jax import artifact as artifacts
from score_jax import compare_layers, interop, interop_load, torch_models
from score_jax.artifact import WEIGHTS, Artifact
from score_jax.divergences import label_cross_entropy
from score_jax.types import UserError

ENGINES = ("jax", "torch")
OWN_EXPORT = "model_robustbench.pt"
OF_FILE = "of the file"  # How `interop_normalization` begins, where the file has constants.


@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """A network and how it is asked.

    Attributes:
      label: what the user called it.
      engine: one of `ENGINES`, which computes it.
      artifact: its architecture and weights; of a PyTorch file too, whose digest stands there.
      logits: images -> f32[b, k].
      input_gradient: (images, labels i64[b]) -> f32[b, h, w, c], of the summed cross-entropy.
      activations: images -> what each module puts out, by our module paths, channels last.
    """

    label: str
    engine: str
    artifact: Artifact
    logits: Callable[[np.ndarray], np.ndarray]
    input_gradient: Callable[[np.ndarray, np.ndarray], np.ndarray]
    activations: Callable[[np.ndarray], dict[str, np.ndarray]]

    @property
    def model(self) -> dict[str, Any]:
        """The `model` section of model.json."""
        return self.artifact.spec["model"]

    @property
    def sha256(self) -> str:
        """The digest of the weights' file."""
        return self.artifact.spec["sha256"][WEIGHTS]


def open_both(
    first: str, second: str, options: Mapping[str, str] | None = None
) -> tuple[Side, Side]:
    """The two sides of a comparison.

    Args:
      first, second: artifact or run folders, computed by JAX, or PyTorch files of weights,
        computed by PyTorch. No second one: the PyTorch file of the first one's own export.
      options: of `interop_load.load`, for the PyTorch files. Without a model or dataset these
        are those of the other side, or told by the file.

    Raises:
      UserError: what `artifact.load` and `interop_load.load` refuse, or two networks that do not
        take the same images to the same classes.
    """
    paths = [Path(name).expanduser().absolute() for name in (first, second) if name]
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; give an export, a run or weights.")
    loaded = [None if path.is_file() else artifacts.load(path) for path in paths]
    if not second:
        if loaded[0] is None:
            raise UserError(f"{first} has nothing to be compared with; give a second network.")
        paths.append(loaded[0].path / OWN_EXPORT)
        if not paths[1].is_file():
            raise UserError(f"{paths[1]} does not exist; export again, or give a second network.")
        loaded.append(None)
    like = next((each.spec for each in loaded if each is not None), {})
    sides = []
    for name, path, artifact in zip((first, second or OWN_EXPORT), paths, loaded, strict=True):
        if artifact is None:
            sides.append(torch_side(_read_torch(path, like, options or {}), label=name))
        else:
            sides.append(jax_side(artifact, label=name))
    _check_alike(*sides)
    return sides[0], sides[1]


def _read_torch(path: Path, like: Mapping[str, Any], options: Mapping[str, str]) -> Artifact:
    """A file of weights as what an export would hold; `like` is the other side's model.json."""
    own = {name: value for name, value in options.items() if value}
    if "dataset" not in own and not like.get("dataset"):
        raise UserError(f"{path.name} does not say what it classifies; give --dataset=NAME.")
    known = {"dataset": like.get("dataset"), "model": like["model"]["name"]} if like else {}
    found = interop_load.load(path, **{**known, **own})
    section = dict(found.model)
    # A file seldom says how its input is normalised; where nobody else does, as the other side.
    told = "normalization" in own or found.origin["normalization"].startswith(OF_FILE)
    if like and not told:
        section |= {name: like["model"][name] for name in ("mean", "std")}
    spec = {
        "model": section,
        "dataset": own.get("dataset") or like["dataset"],
        "norm": like.get("norm"),
        "eps": like.get("eps"),
        "sha256": {WEIGHTS: found.origin["sha256"]},
    }
    return Artifact(
        classifier=artifacts.build_classifier(section), params=found.params,
        batch_stats=found.batch_stats, spec=spec, path=path.parent,
    )  # fmt: skip


def _check_alike(one: Side, other: Side) -> None:
    for field, words in (("num_classes", "classes"), ("image_shape", "images of shape")):
        here, there = one.model[field], other.model[field]
        if not np.array_equal(here, there):
            raise UserError(
                f"{one.label} has {words} {here}, {other.label} has {there}; only networks of the "
                "same task can be compared."
            )


def jax_side(artifact: Artifact, *, label: str) -> Side:
    """The network of an artifact, computed by JAX at the precision it was loaded with."""
    variables = jax.device_put({"params": artifact.params, "batch_stats": artifact.batch_stats})

    def forward(held, images):
        return artifact.classifier.logits(**held, images=images)

    order: list[str] = []

    def loss(images, held, labels):
        return label_cross_entropy(forward(held, images), labels).sum()

    def activations(held, images):
        found = artifact.classifier.activations(held["params"], held["batch_stats"], images)
        order[:] = found  # A compiled function hands a dict back sorted.
        return found

    answer, slope, seen = jax.jit(forward), jax.jit(jax.grad(loss)), jax.jit(activations)

    def in_order(images):
        found = seen(variables, images)
        return {path: np.asarray(found[path], np.float32) for path in order}

    return Side(
        label=label,
        engine="jax",
        artifact=artifact,
        logits=lambda images: np.asarray(answer(variables, images)),
        input_gradient=lambda images, labels: np.asarray(
            slope(images, variables, labels.astype(np.int32))
        ),
        activations=in_order,
    )


def torch_side(artifact: Artifact, *, label: str) -> Side:
    """The same weights in the PyTorch network of `torch_models`; JAX is not asked."""
    section = dict(artifact.spec["model"])
    name = section.pop("name")
    network = torch_models.create(name, **section)
    state = interop.to_state_dict(name, artifact.params, artifact.batch_stats)
    network.load_state_dict(state)

    def logits(images):
        with torch.no_grad():
            return network(_to_torch(images)).numpy()

    def input_gradient(images, labels):
        leaf = _to_torch(images).requires_grad_()
        loss = functional.cross_entropy(network(leaf), torch.from_numpy(labels), reduction="sum")
        return _from_torch(torch.autograd.grad(loss, leaf)[0])

    def activations(images):
        stored = compare_layers.module_names(name, artifact.params, artifact.batch_stats)
        seen: dict[str, np.ndarray] = {}

        def hook(path):
            return lambda module, inputs, out: seen.__setitem__(path, _from_torch(out))

        handles = [
            network.get_submodule(theirs).register_forward_hook(hook(ours))
            for ours, theirs in stored.items()
        ]
        try:
            logits(images)
        finally:
            for handle in handles:
                handle.remove()
        return seen

    return Side(
        label=label,
        engine="torch",
        artifact=artifact,
        logits=logits,
        input_gradient=input_gradient,
        activations=activations,
    )


def at_precision(side: Side, precision: str) -> Side:
    """A JAX side once more, computing as `models.create` understands `precision`."""
    classifier = artifacts.build_classifier(side.model, precision)
    artifact = dataclasses.replace(side.artifact, classifier=classifier)
    return jax_side(artifact, label=f"{side.label} in {precision}")


def _to_torch(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def _from_torch(values: torch.Tensor) -> np.ndarray:
    """Channels last where there is space; a copy, which no later module can write into."""
    array = values.detach().numpy().copy()
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array
