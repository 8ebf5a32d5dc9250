"""What the geometry of a model is measured on: the model, images, and the ball around each image.

Every part of `score-jax analyze geometry` is a function of a `Subject`.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import artifact as artifacts
from score_jax import evaluation, mesh
from score_jax.analysis import subject_choice
from score_jax.artifact import Artifact
from score_jax.command_line import Call, UsageError
from score_jax.command_line_run import artifact_of, radius_of
from score_jax.data import sources, trained
from score_jax.mesh import Layout
from score_jax.types import Array, BatchStats, Key, Params, UserError
from score_jax.writers_progress import counted

NUM_EXAMPLES = 500
# (logits function, keys [b], images f32[b, h, w, c] in [0, 1], labels i32[b]) -> a tree of [b, ...]
Compute = Callable[[Callable[[Array], Array], Key, Array, Array], Any]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A trained model and the images that it is looked at on.

    Attributes:
      name: of the run's folder; a second one of that name among those beside is 'NAME (2)'.
      workdir: of the run; None where only an exported model was given.
      artifact: weights, classifier and model.json.
      split: 'test', or 'train': the images that were trained on, without those of the validation.
      indices: i64[n], places of the images in the official order of the split.
      images: u8[n, h, w, c].
      labels: i32[n]; of training images those that the run was given.
      class_names: of the dataset.
      norm, eps: the ball, pixel units.
      steps, step_size: of the attack of training, or of --steps with steps of 2.5 eps / steps.
      seed, batch_size: of the attacks; each image has a random number of its own, so that the
        batch size changes nothing but rounding.
      data_sha256: of the split.
      data_dir, num_examples: where and how many to read, for `on`.
      checkpoints: which of the run's to measure over training, as in `export_series.artifacts`.
      chosen: places among `images` of those to show one by one.
      beside: other runs, on the same images and with the same ball.
      programs: what is compiled already, shared by all that were made from one subject.
    """

    name: str
    workdir: Path | None
    artifact: Artifact
    split: str
    indices: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    norm: str
    eps: float
    steps: int
    step_size: float
    seed: int
    batch_size: int
    data_sha256: str
    data_dir: str
    num_examples: int
    checkpoints: str = "all"
    chosen: tuple[int, ...] = ()
    beside: tuple["Subject", ...] = ()
    programs: dict[Any, Any] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def variables(self) -> tuple[Params, BatchStats]:
        """The weights and the running statistics."""
        return self.artifact.params, self.artifact.batch_stats

    def on(self, split: str) -> "Subject":
        """The same model on another split, with nothing chosen and no runs beside it.

        Raises:
          UserError: the split cannot be read, or does not fit the model.
        """
        return self if split == self.split else _on(self, split)

    def facts(self) -> dict[str, Any]:
        """What a number of this subject depends on, for the facts of a finding."""
        return {
            "dataset": self.artifact.spec["dataset"],
            "split": self.split,
            "num_examples": len(self.images),
            "norm": self.norm,
            "eps": self.eps,
            "seed": self.seed,
            **self.measured_model(),
            "data_sha256": self.data_sha256,
        }

    def measured_model(self) -> dict[str, Any]:
        """Which weights, of which checkpoint and step; None where the export does not tell it."""
        spec = self.artifact.spec
        told = {name: spec.get(name) for name in ("weights", "checkpoint", "step")}
        return {**told, "model_sha256": spec["sha256"][artifacts.WEIGHTS]}


def create(call: Call) -> Subject:
    """The subject of a call: --workdir or --artifact, --split, --num_examples, --eps, --steps, ...

    Raises:
      UsageError: a flag that does not fit.
      UserError: a model or a dataset that cannot be read, or do not fit each other.
    """
    path = artifact_of(call)
    if call.steps < -1 or call.steps == 0:
        raise UsageError(f"--steps={call.steps} is no attack; give 1 or more")
    eps = radius_of(call, path)
    artifact = artifacts.load(path)
    eps = float(artifact.spec["eps"] if eps is None else eps)
    wanted = call.num_examples or NUM_EXAMPLES
    steps, step_size = subject_choice.attack(artifact, eps, call.steps)
    workdir = Path(call.workdir) if call.workdir else None
    subject = Subject(
        name=name_of(path, workdir), workdir=workdir, artifact=artifact, split=call.split,
        **read(artifact, call.split, call.data_dir, wanted),
        class_names=sources.class_names(artifact.spec["dataset"], call.data_dir),
        norm=artifact.spec["norm"], eps=eps, steps=steps, step_size=step_size, seed=call.seed,
        batch_size=call.batch_size, data_dir=call.data_dir, num_examples=wanted,
        checkpoints=call.checkpoints,
    )  # fmt: skip
    beside = [_beside(subject, Path(folder)) for folder in call.beside]
    names = subject_choice.told_apart([subject.name, *(run.name for run in beside)])
    return dataclasses.replace(
        subject,
        chosen=subject_choice.rows(call.images, subject.indices, subject.labels, subject.split),
        beside=tuple(
            dataclasses.replace(run, name=name) for run, name in zip(beside, names[1:], strict=True)
        ),
    )


def per_example(subject: Subject, compute: Compute, what: str) -> Any:
    """What `compute` gives for each image, as numpy arrays [n, ...], over every device.

    Args:
      compute: is compiled once for each function and shape; each image's key depends on the seed
        and its index alone.
      what: for the progress, such as 'margins: images attacked'.
    """
    return compiled(subject, compute)(subject.variables, what)


def compiled(subject: Subject, compute: Compute) -> Callable[[tuple[Params, BatchStats], str], Any]:
    """As `per_example`, for several sets of weights: (weights and statistics, what) -> arrays."""
    layout = mesh.create()
    program = _program(subject, compute, layout)

    def measure(variables: tuple[Params, BatchStats], what: str) -> Any:
        held = jax.device_put((variables, jax.random.key(subject.seed)), layout.replicated)
        parts, done = [], 0
        with counted(what, len(subject.images)) as tell:
            for batch in evaluation.padded_batches(
                subject.images, np.arange(len(subject.images)), _batch_size(subject, layout)
            ):
                rows = batch["labels"]  # In place of labels the images' numbers.
                given = {
                    "images": batch["images"],
                    "labels": subject.labels[rows],
                    "indices": subject.indices[rows].astype(np.uint32),
                }
                count = int(batch["mask"].sum())
                # Put when its turn comes: all images together may be more than a device holds.
                found = jax.device_get(program(*held, layout.put_whole_batch(given)))
                parts.append(jax.tree.map(lambda leaf, count=count: leaf[:count], found))
                done += count
                tell(done)
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    return measure


def _program(subject: Subject, compute: Compute, layout: Layout) -> Callable[..., Any]:
    """Jitted (variables, key, batch) -> tree; one for all that share the subject's programs."""
    classifier = subject.artifact.classifier
    _, program = subject.programs.get((id(classifier), compute), (None, None))
    if program is None:

        def run(variables, key, batch):
            keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(batch["indices"])
            images = batch["images"].astype(jnp.float32) / 255
            logits = evaluation.logits_fn(classifier, *variables)
            return compute(logits, keys, images, batch["labels"])

        whole = layout.replicated
        program = jax.jit(run, in_shardings=(whole, whole, layout.batch), out_shardings=whole)
        # With the classifier, so that nothing else gets its id.
        subject.programs[id(classifier), compute] = classifier, program
    return program


@functools.lru_cache(maxsize=4)  # The same object, for what is measured once of a subject.
def _on(subject: Subject, split: str) -> Subject:
    fields = read(subject.artifact, split, subject.data_dir, subject.num_examples)
    return dataclasses.replace(subject, split=split, chosen=(), beside=(), **fields)


def _batch_size(subject: Subject, layout: Layout) -> int:
    """A multiple of the devices; alike for a smaller split, which then needs no other program."""
    devices = layout.num_devices
    most = max(len(subject.images), min(subject.num_examples, NUM_EXAMPLES))
    return -(-min(subject.batch_size, most) // devices) * devices


def name_of(path: str, workdir: Path | None = None) -> str:
    """What a run is called, given its folder or that of its export."""
    folder = (workdir or Path(path)).absolute()
    return folder.parent.name if folder.name == "export" else folder.name


def read(
    artifact: Artifact, split: str, data_dir: str, wanted: int, is_asked: bool = False
) -> dict[str, Any]:
    """The fields of a `Subject` that a split gives.

    Args:
      wanted: the first so many images; 0: all.
      is_asked: refuse to give fewer.

    Raises:
      UserError: the split cannot be read, has too few images, or does not fit the model.
    """
    split_of = {"test": sources.test_split, "train": sources.train_split}[split]
    data, config = split_of(artifact.spec["dataset"], data_dir), artifact.spec.get("config") or {}
    shape, expected = data.images.shape[1:], tuple(artifact.spec["model"]["image_shape"])
    if shape != expected:
        raise UserError(
            f"dataset {data.name!r} has images {shape}, the model of {artifact.path} takes "
            f"{expected}; give the --data_dir that it was trained from"
        )
    indices, given = np.arange(len(data)), data.labels
    if split == "train":
        section = config.get("data") or {}
        indices = trained.indices(section, data.labels)
        num_classes = artifact.spec["model"]["num_classes"]
        given = trained.given_labels(section, data.labels, num_classes)
    if is_asked and wanted > len(indices):
        raise UserError(
            f"--num_examples={wanted}: {data.name} has {len(indices)} {split} images; give at "
            "most so many"
        )
    indices = np.asarray(indices[: wanted or None])
    return {
        "indices": indices, "images": data.images[indices], "labels": given[indices],
        "data_sha256": data.fingerprint,
    }  # fmt: skip


def _beside(subject: Subject, folder: Path) -> Subject:
    """Another run on the same images."""
    artifact = artifacts.load(folder)
    for field in ("dataset", "norm"):
        own, other = subject.artifact.spec[field], artifact.spec[field]
        if own != other:
            raise UsageError(
                f"--beside={folder}: its {field} is {other}, that of {subject.name} is {own}; "
                "give runs that are alike in both"
            )
    if subject.artifact.spec["model"] == artifact.spec["model"]:
        # What is compiled for one serves both.
        artifact = dataclasses.replace(artifact, classifier=subject.artifact.classifier)
    return dataclasses.replace(
        subject, name=name_of(str(folder)), workdir=folder, artifact=artifact
    )
