"""A bundle for publishing: what RobustBench and the Hugging Face Hub ask for, from one artifact.

Only the official AutoAttack, complete and of exactly these weights, makes a bundle; anything less
makes a draft that says so in every text. Weights are read back before they are handed out.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from score_jax import artifact as artifacts
from score_jax import (
    interop,
    submit_card,
    submit_claim,
    submit_robustbench,
    submit_zoo,
    torch_models,
)
from score_jax.artifact import SPEC, WEIGHTS, Artifact, sha256
from score_jax.submit_claim import Claim
from score_jax.submit_paper import Paper
from score_jax.submit_zoo import Network
from score_jax.types import UserError
from score_jax.workdir import write_json_atomic

SUMS, DRAFT = "SHA256SUMS", "DRAFT.txt"
TORCH_WEIGHTS = "pytorch_model.safetensors"
CHECKED_IMAGES = 64
LOGIT_TOLERANCE = 1e-4  # Relative to the largest logit where that is above 1.


def submit(
    artifact: str | os.PathLike[str],
    paper: Paper,
    *,
    name: str = "autoattack",
    out: str | os.PathLike[str] = "",
    additional_data: str = "",
    footnote: str = "",
    draft: bool = False,
    hub_only: bool = False,
) -> list[str]:
    """Writes the bundle and returns what to tell: where it is and what is left to do.

    Args:
      artifact: an export, or the run folder above it.
      name: of the evaluation: DIR/eval/<name>.
      out: where to write; DIR/submit by default. An earlier bundle is replaced, nothing else is.
      additional_data, footnote: see `submit_claim.read`.
      draft: write it even where something is missing, marked as a draft.
      hub_only: for the Hugging Face Hub alone, whose cards take any dataset and radius.

    Raises:
      UserError: no bundle can be made of this, or `out` holds something else.
    """
    loaded = artifacts.load(artifact)
    run = loaded.path.parent
    claim = submit_claim.read(
        loaded,
        run / "eval" / name,
        additional_data=additional_data,
        footnote=footnote,
        leaderboard=not hub_only,
    )
    if claim.missing and not draft:
        raise UserError(
            f"not for publication yet: {'; '.join(claim.missing)}. Evaluate again, or add --draft "
            "to look at the bundle."
        )
    network = submit_zoo.find(loaded.spec["model"])
    identifier = f"{paper.identifier}_{network.suffix}"
    out = Path(out or run / "submit").expanduser().absolute()
    _check_replaceable(out)
    adversarial = submit_claim.adversarial_images(claim)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".submit-", suffix=".tmp", dir=out.parent) as scratch:
        new = Path(scratch) / "new"
        if not hub_only:
            folder = new / "robustbench"
            folder.mkdir(parents=True)
            _write_robustbench(folder, loaded, claim, paper, network, identifier, adversarial)
        _write_hub(new / "huggingface", loaded, claim, paper, network, identifier, adversarial)
        if claim.missing:
            (new / DRAFT).write_text("Missing:\n" + "\n".join(claim.missing) + "\n")
        _write_sums(new)
        _replace(out, new, Path(scratch) / "previous")
    return [
        f"{identifier}: clean {claim.clean}%, {claim.result['attack']} {claim.robust}%",
        str(out),
        *_left_to_do(out, claim, paper, network, identifier, hub_only),
    ]


def _write_robustbench(
    folder: Path,
    artifact: Artifact,
    claim: Claim,
    paper: Paper,
    network: Network,
    identifier: str,
    adversarial: np.ndarray | None,
) -> None:
    path = folder / f"{identifier}.pt"
    torch.save(_state_dict(artifact), path)
    check_weights(artifact, torch.load(path, weights_only=True), adversarial)
    info = folder / "model_info" / claim.dataset / claim.threat / f"{identifier}.json"
    info.parent.mkdir(parents=True)
    write_json_atomic(info, submit_robustbench.model_info(claim, paper, network))
    (folder / "issue.md").write_text(submit_robustbench.issue(claim, paper, network, identifier))
    entry = submit_zoo.entry(
        network, identifier, dataset=claim.dataset, threat=claim.threat, draft=bool(claim.missing)
    )
    (folder / "zoo_entry.py").write_text(entry)
    if adversarial is not None:
        images = torch.from_numpy(np.ascontiguousarray(adversarial.transpose(0, 3, 1, 2)))
        torch.save(images, folder / "adversarial.pt")
    _copy_log(claim, folder)


def _write_hub(
    folder: Path,
    artifact: Artifact,
    claim: Claim,
    paper: Paper,
    network: Network,
    identifier: str,
    adversarial: np.ndarray | None,
) -> None:
    """A folder that is an artifact, a repository of the Hub, and PyTorch weights at once."""
    folder.mkdir(parents=True)
    shutil.copyfile(artifact.path / WEIGHTS, folder / WEIGHTS)
    stored = safetensors.torch.save(_state_dict(artifact), {"format": "pt"})
    (folder / TORCH_WEIGHTS).write_bytes(stored)
    check_weights(artifact, safetensors.torch.load_file(folder / TORCH_WEIGHTS), adversarial)
    spec = _public(artifact.spec)
    spec["sha256"] = {file: sha256(folder / file) for file in (WEIGHTS, TORCH_WEIGHTS)}
    write_json_atomic(folder / SPEC, spec)
    (folder / "config.json").write_text(submit_card.config_json(spec))
    artifacts.load(folder)
    write_json_atomic(folder / "evaluation.json", claim.result)
    (folder / "README.md").write_text(submit_card.card(claim, paper, network, identifier, spec))
    _copy_log(claim, folder)


def _state_dict(artifact: Artifact) -> dict[str, torch.Tensor]:
    name = artifact.spec["model"]["name"]
    return interop.to_state_dict(name, artifact.params, artifact.batch_stats)


def _public(spec: Mapping[str, Any]) -> dict[str, Any]:
    """model.json without the program, which stays at home, and without folders of this machine."""
    public = json.loads(json.dumps({key: spec[key] for key in spec if key != "program"}))
    if "dir" in (public.get("config") or {}).get("data", {}):
        public["config"]["data"]["dir"] = ""
    return public


def check_weights(
    artifact: Artifact, state: Mapping[str, torch.Tensor], images: np.ndarray | None
) -> None:
    """Loads a state_dict strictly into the PyTorch network and compares logits with JAX's.

    Args:
      images: f32[n, h, w, c] in [0, 1], of which the first are taken; None draws some.

    Raises:
      UserError: the two are not the same network.
    """
    model = dict(artifact.spec["model"])
    if images is None:
        shape = (CHECKED_IMAGES, *model["image_shape"])
        images = np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)
    images = np.asarray(images[:CHECKED_IMAGES], np.float32)
    network = torch_models.create(model.pop("name"), **model)
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise UserError(f"the PyTorch weights do not fit: {str(error).splitlines()[-1]}") from None
    with torch.no_grad():
        theirs = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    ours = np.asarray(artifacts.logits_fn(artifact)(images))
    apart, scale = float(np.abs(ours - theirs).max()), max(1.0, float(np.abs(ours).max()))
    if not apart <= LOGIT_TOLERANCE * scale:
        raise UserError(
            f"PyTorch's logits are up to {apart:.2g} from JAX's, more than "
            f"{LOGIT_TOLERANCE * scale:.2g}; nothing was written."
        )


def _copy_log(claim: Claim, folder: Path) -> None:
    log = claim.folder / "log.txt"
    if log.is_file():
        shutil.copyfile(log, folder / "log.txt")


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if not path.is_dir())


def _write_sums(folder: Path) -> None:
    """In the format of `sha256sum --check`."""
    lines = [f"{sha256(path)}  {path.relative_to(folder)}\n" for path in _files(folder)]
    (folder / SUMS).write_text("".join(lines))


def _check_replaceable(out: Path) -> None:
    """Only a bundle that nobody has changed since it was written may be replaced."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / SUMS).is_file():
        raise UserError(f"{out} is not a bundle of this program; give another --out.")
    lines = (out / SUMS).read_text().splitlines()
    written = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for path in _files(out):
        name = str(path.relative_to(out))
        if name != SUMS and (name not in written or sha256(path) != written[name]):
            raise UserError(
                f"{path} was added or changed since the bundle was written; move it away, or "
                "give another --out."
            )


def _replace(out: Path, new: Path, previous: Path) -> None:
    if out.exists():
        out.rename(previous)
    try:
        new.rename(out)
    except OSError:
        if previous.exists():
            previous.rename(out)
        raise


def _left_to_do(
    out: Path, claim: Claim, paper: Paper, network: Network, identifier: str, hub_only: bool
) -> Iterator[str]:
    """What this program cannot do for the user, one line each."""
    if claim.missing:
        yield "This is a DRAFT: " + "; ".join(claim.missing)
    for flag in claim.flags:
        yield f"AutoAttack's flag {flag.get('name')}: {flag.get('meaning')}"
    for file in ("adversarial.npz", "log.txt"):
        if not (claim.folder / file).is_file():
            yield f"{claim.folder / file} does not exist: the bundle is without it"
    repository = paper.hub or "USER/REPO"
    yield f"To do: hf upload {repository} {out / 'huggingface'} ."
    if hub_only:
        return
    yield f"To do: hf upload {repository} {out / 'robustbench'} robustbench"
    if not paper.hub:
        yield "To do: the address of checkpoint and code in issue.md, or give --hub=user/repo"
    if not network.included:
        yield f"RobustBench has no class for {network.architecture}: its entry needs one of yours"
    yield f"To do: zoo_entry.py needs the gdrive_id of {identifier}.pt"
    yield f"To do: open an issue with issue.md (licence: {paper.license}) at " + (
        "https://github.com/RobustBench/robustbench/issues/new/choose"
    )
