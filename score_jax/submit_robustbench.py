"""What RobustBench asks of a new model: its model_info JSON and the text of the issue."""

from typing import Any

from score_jax.submit_claim import Claim, percent
from score_jax.submit_paper import LICENSES, Paper
from score_jax.submit_zoo import Network

DRAFT = "DRAFT, not for submission"


def model_info(claim: Claim, paper: Paper, network: Network) -> dict[str, Any]:
    """model_info/<dataset>/<Linf|L2>/<ID>.json of RobustBench; numbers are strings there."""
    footnote = claim.footnote
    if claim.missing:
        footnote = f"{DRAFT}: {'; '.join(claim.missing)}. {footnote}".strip()
    return {
        "link": paper.link,
        "name": paper.title,
        "authors": paper.authors,
        "additional_data": claim.additional_data,
        "number_forward_passes": 1,
        "dataset": claim.dataset,
        "venue": paper.venue,
        "architecture": network.architecture,
        "eps": claim.radius,
        "clean_acc": claim.clean,
        "reported": claim.robust,
        "autoattack_acc": claim.robust,
        "footnote": footnote,
        "unreliable": claim.unreliable,
    }


def evaluation_table(claim: Claim) -> list[str]:
    """Lines of a Markdown table: the accuracy that is left after each attack, in their order."""
    lines = ["| after | accuracy |", "|---|---:|", f"| nothing (clean) | {claim.clean}% |"]
    for attack in claim.result["attacks"]:
        left = attack.get("robust_accuracy")
        if left is not None:
            lines.append(f"| {attack['name']} | {percent(left)}% |")
    return [*lines, f"| **all (worst case)** | **{claim.robust}%** |"]


def flag_lines(claim: Claim) -> list[str]:
    """AutoAttack's doubts about its own result, one Markdown item each."""
    if not claim.flags:
        return ["AutoAttack raised no flag."]
    return [
        f"- `{flag.get('name')}`: {flag.get('message')} ({flag.get('meaning')})"
        for flag in claim.flags
    ]


def method(claim: Claim) -> str:
    """How the claim was measured, in one sentence without its full stop."""
    library = claim.result.get("attack_library") or {}
    names = ", ".join(attack["name"] for attack in claim.result["attacks"])
    seed = f"seed {claim.result.get('seed')}"
    if claim.result.get("seeding") == "chunk":
        seed += f", another for each attack and each {claim.result['chunk_size']:,} images"
    return (
        f"{claim.result['attack']} {claim.result.get('attack_version', '')} ({names}; "
        f"{library.get('name', 'unknown package')} {library.get('version', '')}, "
        f"{seed}) on {claim.result['num_examples']:,} test images"
    )


def issue(claim: Claim, paper: Paper, network: Network, identifier: str) -> str:
    """issue.md: title on the first line, then RobustBench's form for new models, filled in."""
    mit = paper.license == "mit"
    custom = "" if mit else f" {LICENSES[paper.license]}"
    checkpoint = (
        f"{paper.page} (`robustbench/{identifier}.pt`; the model card loads it in JAX and PyTorch)"
        if paper.page
        else f"(to be filled in: the address of {identifier}.pt and of the code)"
    )
    draft = f"DRAFT {paper.identifier}" if claim.missing else paper.identifier
    lines = [f"[New Model] {draft}", ""]
    if claim.missing:
        lines += [f"**{DRAFT}:**", "", *(f"- {reason}" for reason in claim.missing), ""]
    lines += [
        "# Paper Information",
        "",
        f"- **Paper Title**: {paper.title}",
        f"- **Paper URL**: {paper.link}",
        f"- **Paper authors**: {paper.authors}",
        "",
        "# Leaderboard Claim(s)",
        "",
        f"## Model 1: {identifier}",
        "",
        f"- **Architecture**: {network.architecture}",
        f"- **Dataset**: {claim.dataset}",
        f"- **Threat Model**: {claim.threat}",
        f"- **eps**: {claim.radius}",
        f"- **Clean accuracy**: {claim.clean}%",
        f"- **Robust accuracy**: {claim.robust}%",
        f"- **Additional data**: {'true' if claim.additional_data else 'false'}",
        f"- **Evaluation method**: {method(claim)}",
        f"- **Checkpoint and code**: {checkpoint}",
    ]
    if claim.footnote:
        lines.append(f"- **Footnote**: {claim.footnote}")
    lines += [
        "",
        "### Evaluation",
        "",
        *evaluation_table(claim),
        "",
        *flag_lines(claim),
        "",
        f"The attacked weights have sha256 `{claim.result['model_sha256']}` (model.safetensors); "
        f"{identifier}.pt holds the same values and gives the same logits. `log.txt` is the log of "
        "the attack, `adversarial.pt` the images it left, `model_info/` the entry of the "
        "leaderboard and `zoo_entry.py` that of the model zoo.",
        "",
        "# Model Zoo:",
        "",
        "- [x] I want to add my models to the Model Zoo (check if true)",
        f"- [{' ' if network.included else 'x'}] I use an architecture that is **not** included "
        "among those [here](https://github.com/RobustBench/robustbench/tree/master/robustbench/"
        "model_zoo/architectures) (check if true).",
        f"- [{'x' if mit else ' '}] I agree to release my model(s) under MIT license (check if "
        "true) **OR**",
        f"- [{' ' if mit else 'x'}] I want my models to be released under a custom license, "
        f"located here:{custom}",
        "",
    ]
    return "\n".join(lines)
