"""A bundle for publishing: what RobustBench and the Hugging Face Hub ask for, from one artifact.

Only the official AutoAttack, complete and of exactly these weights, makes a bundle; anything less
makes a draft that says so in every text. Weights are read back before they are handed out.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from score_jax import artifact as artifacts
from score_jax import (
    submit_card,
    submit_claim,
    submit_folder,
    submit_robustbench,
    submit_weights,
    submit_zoo,
)
from score_jax.artifact import SPEC, WEIGHTS, Artifact, sha256
from score_jax.submit_claim import Claim
from score_jax.submit_paper import Paper
from score_jax.submit_zoo import Network
from score_jax.types import UserError
from score_jax.workdir import write_json_atomic

DRAFT = "DRAFT.txt"
TORCH_WEIGHTS = "pytorch_model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What both parts of a bundle are written from.

    Attributes:
      identifier: of the model, 'Pang2022Robustness_WRN-28-10'.
      adversarial: f32[n, h, w, c] in [0, 1], None where they were not kept.
      expected: what the handed-out weights must give.
    """

    artifact: Artifact
    claim: Claim
    paper: Paper
    network: Network
    identifier: str
    adversarial: np.ndarray | None
    expected: submit_weights.Reference


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
        remedy = "Evaluate again" if claim.incomplete else "Add --hub_only for the Hub alone"
        raise UserError(
            f"not for publication yet: {'; '.join(claim.missing)}. {remedy}, or add --draft to "
            "look at the bundle."
        )
    network = submit_zoo.find(loaded.spec["model"])
    adversarial = submit_claim.adversarial_images(claim)
    submission = Submission(
        artifact=loaded,
        claim=claim,
        paper=paper,
        network=network,
        identifier=f"{paper.identifier}_{network.suffix}",
        adversarial=adversarial,
        expected=submit_weights.reference(loaded, adversarial),
    )
    out = Path(out or run / "submit").expanduser().absolute()
    submit_folder.check_replaceable(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".submit-", suffix=".tmp", dir=out.parent) as scratch:
        new = Path(scratch) / "new"
        if not hub_only:
            _write_robustbench(submission, new / "robustbench")
        _write_hub(submission, new / "huggingface")
        if claim.missing:
            (new / DRAFT).write_text("Missing:\n" + "\n".join(claim.missing) + "\n")
        submit_folder.write_sums(new)
        submit_folder.replace(out, new, Path(scratch) / "previous")
    return [
        f"{submission.identifier}: clean {claim.clean}%, {claim.result['attack']} {claim.robust}%",
        str(out),
        *_left_to_do(submission, out, hub_only),
    ]


def _write_robustbench(of: Submission, folder: Path) -> None:
    folder.mkdir(parents=True)
    path = folder / f"{of.identifier}.pt"
    torch.save(submit_weights.state_dict(of.artifact), path)
    submit_weights.check(of.artifact, torch.load(path, weights_only=True), of.expected)
    info = folder / "model_info" / of.claim.dataset / of.claim.threat / f"{of.identifier}.json"
    info.parent.mkdir(parents=True)
    write_json_atomic(info, submit_robustbench.model_info(of.claim, of.paper, of.network))
    issue = submit_robustbench.issue(of.claim, of.paper, of.network, of.identifier)
    (folder / "issue.md").write_text(issue)
    entry = submit_zoo.entry(
        of.network,
        of.identifier,
        dataset=of.claim.dataset,
        threat=of.claim.threat,
        draft=bool(of.claim.missing),
    )
    (folder / "zoo_entry.py").write_text(entry)
    if of.adversarial is not None:
        images = np.ascontiguousarray(of.adversarial.transpose(0, 3, 1, 2))
        torch.save(torch.from_numpy(images), folder / "adversarial.pt")
    _copy_log(of.claim, folder)


def _write_hub(of: Submission, folder: Path) -> None:
    """A folder that is an artifact, a repository of the Hub, and PyTorch weights at once."""
    folder.mkdir(parents=True)
    shutil.copyfile(of.artifact.path / WEIGHTS, folder / WEIGHTS)
    stored = safetensors.torch.save(submit_weights.state_dict(of.artifact), {"format": "pt"})
    (folder / TORCH_WEIGHTS).write_bytes(stored)
    state = safetensors.torch.load_file(folder / TORCH_WEIGHTS)
    submit_weights.check(of.artifact, state, of.expected)
    spec = _public(of.artifact.spec)
    spec["sha256"] = {file: sha256(folder / file) for file in (WEIGHTS, TORCH_WEIGHTS)}
    write_json_atomic(folder / SPEC, spec)
    # The Hub knows a model by this name; `artifact.load` reads the other.
    write_json_atomic(folder / "config.json", {"model_type": "score-jax", **spec})
    artifacts.load(folder)
    shutil.copyfile(of.claim.folder / "result.json", folder / "evaluation.json")
    card = submit_card.card(of.claim, of.paper, of.network, of.identifier, spec)
    (folder / "README.md").write_text(card)
    _copy_log(of.claim, folder)


def _public(spec: Mapping[str, Any]) -> dict[str, Any]:
    """model.json without the program, which stays at home, and without folders of this machine."""

    def strip(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: strip(held) for key, held in value.items()}
        if isinstance(value, list | tuple):
            return [strip(held) for held in value]
        return Path(value).name if isinstance(value, str) and value[:1] in ("/", "~") else value

    return strip({key: value for key, value in spec.items() if key != "program"})


def _copy_log(claim: Claim, folder: Path) -> None:
    log = claim.folder / "log.txt"
    if log.is_file():
        shutil.copyfile(log, folder / "log.txt")


def _left_to_do(of: Submission, out: Path, hub_only: bool) -> Iterator[str]:
    """What this program cannot do for the user, one line each."""
    claim, paper = of.claim, of.paper
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
    if not of.network.included:
        yield f"To do: RobustBench has no class for {of.network.architecture}; propose one with it"
    yield f"To do: zoo_entry.py needs the gdrive_id of {of.identifier}.pt"
    yield f"To do: open an issue with issue.md (licence: {paper.license}) at " + (
        "https://github.com/RobustBench/robustbench/issues/new/choose"
    )
