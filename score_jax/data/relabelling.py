"""Other labels than a set came with: wrong ones for ablations, and those of a network."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from score_jax.config_rules_data import generated_sets
from score_jax.data import npz
from score_jax.data.permutation import bits, stored
from score_jax.data.raw_split import READ_ERRORS
from score_jax.data.sampling import LabelledImages
from score_jax.data.sources import Source
from score_jax.types import UserError

WRONG, WHICH = 100, 101  # Streams of the seed, beside those of `sampling`.
FORMAT = "score_jax pseudo-labels"
MAX_TEXT = 4096  # Bytes.
# From indices int64[k] and the labels int32[k] of those images to labels int32[k].
Relabel = Callable[[np.ndarray, np.ndarray], np.ndarray]
FIELDS = ("format", "dataset", "fingerprint", "label", "confidence")


@dataclass(frozen=True, kw_only=True, eq=False)
class Relabelled:
    """A `Source` with other labels.

    pseudo_labels: sha256 of the labels of a file, '' where none gave any.
    """

    source: Source
    relabel: Relabel
    name: str
    split: str
    path: str
    fingerprint: str
    storage: str
    pseudo_labels: str = ""

    @staticmethod
    def of(source: Source, relabel: Relabel, pseudo_labels: str = "") -> "Relabelled":
        names = ("name", "split", "path", "fingerprint", "storage")
        facts = {name: getattr(source, name) for name in names}
        return Relabelled(source=source, relabel=relabel, pseudo_labels=pseudo_labels, **facts)

    @property
    def labels(self) -> np.ndarray:
        """All labels, int32[n]."""
        return self.relabel(np.arange(len(self)), self.source.labels)

    def __len__(self) -> int:
        return len(self.source)

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As of `Source`."""
        images, labels = self.source.take(indices)
        return images, self.relabel(indices, labels)


def wrong_labels(
    trained: np.ndarray, size: int, num_classes: int, share: float, seed: int
) -> np.ndarray:
    """What to add to the labels of a set, modulo the classes: int32[size], 0 for most.

    Exactly round(share * len(trained)) images get another class than theirs, each of the others
    alike. With a larger share, those that were wrong before stay wrong in the same way.

    Args:
      trained: int64[n], the indices of the images that may be wrong.
    """
    shifts = np.zeros(size, np.int32)
    chosen = trained[stored(len(trained), seed, WHICH)[: round(share * len(trained))]]
    draws = bits(size, seed, WRONG)[chosen] % np.uint64(num_classes - 1)
    shifts[chosen] = 1 + draws.astype(np.int32)
    return shifts


def noise(data: Any, trained: np.ndarray, size: int, num_classes: int) -> Relabel:
    """What gives the images of a set of `size` the labels that `data.label_noise` asks for.

    Args:
      data: `config.data`, or a mapping alike.
      trained: as of `wrong_labels`.
    """
    share, seed = data["label_noise"], data.get("label_noise_seed", 0)
    shifts = wrong_labels(trained, size, num_classes, share, seed)
    return lambda indices, labels: (labels + shifts[indices]) % np.int32(num_classes)


def relabelled(
    config: Any, held: tuple[Source, ...], labelled_images: LabelledImages, num_classes: int
) -> tuple[Source, ...]:
    """The sources of a run with the labels that its config asks for.

    Args:
      held: the labelled set, then those of `config.data.generated`.
      labelled_images: which of the labelled set are trained on.

    Raises:
      UserError: pseudo-labels that cannot be read, or of other images.
    """
    data = config.data
    labelled, *generated = held
    if data.label_noise:
        trained = labelled_images.indices(np.arange(len(labelled_images)))
        labelled = Relabelled.of(labelled, noise(data, trained, len(labelled), num_classes))
    names = list(generated_sets(data.generated))
    for path in (part.strip() for part in data.pseudo_labels.split(",") if part.strip()):
        name, labels = _read(Path(path).expanduser(), dict(zip(names, held[1:], strict=True)))
        if labels.size and not (0 <= labels.min() and labels.max() < num_classes):
            raise UserError(
                f"data.pseudo_labels={path} has labels from {labels.min()} to {labels.max()} where "
                f"{data.name} has 0 to {num_classes - 1}; label {name} again"
            )
        # Bytes rather than int32: there may be 100 million.
        small = labels.astype(np.min_scalar_type(num_classes))
        place = names.index(name)
        generated[place] = Relabelled.of(
            generated[place],
            lambda indices, _, small=small: small[indices].astype(np.int32),
            hashlib.sha256(labels.astype("<i4")).hexdigest(),
        )
    return labelled, *generated


def _read(path: Path, sets: dict[str, Source]) -> tuple[str, np.ndarray]:
    """The set that a file of `data label` is of, and its labels."""
    where = f"data.pseudo_labels={path}"
    if not path.is_file():
        raise UserError(
            f"{where} does not exist; write it with: "
            f"score-jax data label NAME --artifact=DIR --out={path}"
        )
    try:
        absent = set(FIELDS) - set(npz.keys(path))
        if absent or _text(path, "format") != FORMAT:
            raise UserError(
                f"{where} is not a file of pseudo-labels; write one with: "
                "score-jax data label NAME --artifact=DIR --out=FILE.npz"
            )
        name, fingerprint = _text(path, "dataset"), _text(path, "fingerprint")
        header = npz.read_header(path, "label")
        if name in sets and (header.shape, header.dtype) == ((len(sets[name]),), np.int32):
            with np.load(path, allow_pickle=False) as file:
                labels = file["label"]
    except READ_ERRORS as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{where} is damaged or no npz ({reason}); write it again") from None
    if name not in sets:
        raise UserError(
            f"{where} labels {name!r}, which data.generated does not name; it names: "
            f"{', '.join(sets)}"
        )
    if (header.shape, header.dtype) != ((len(sets[name]),), np.int32):
        raise UserError(
            f"{where} has labels {header.dtype} of shape {header.shape} where {name} has "
            f"{len(sets[name])} images; label {name} again"
        )
    if fingerprint != sets[name].fingerprint:
        raise UserError(
            f"{where} labels other images than the {name} that is prepared ({fingerprint[:12]}, "
            f"not {sets[name].fingerprint[:12]}); label {name} again"
        )
    return name, labels


def _text(path: Path, key: str) -> str:
    header = npz.read_header(path, key)
    if header.shape or header.dtype.kind != "U" or header.dtype.itemsize > MAX_TEXT:
        raise ValueError(f"{key} is no short text")
    with np.load(path, allow_pickle=False) as file:
        return str(file[key])
