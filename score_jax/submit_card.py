"""The model card of the Hugging Face Hub: README.md with its metadata."""

from collections.abc import Mapping
from typing import Any

import yaml

from score_jax.config import write_eps
from score_jax.submit_claim import Claim
from score_jax.submit_paper import Paper
from score_jax.submit_robustbench import DRAFT, evaluation_table, flag_lines, method
from score_jax.submit_zoo import Network

# Our dataset: its name on the Hub ('' where it has none), and for people.
DATASETS = {
    "cifar10": ("uoft-cs/cifar10", "CIFAR-10"),
    "cifar100": ("uoft-cs/cifar100", "CIFAR-100"),
    "digits": ("", "scikit-learn digits"),
}
# What a reader asks first of a training config.
RECIPE = {
    "method": "objective.name",
    "beta": "objective.beta",
    "attack steps": "attack.num_steps",
    "attack step size": "attack.step_size",
    "attack BatchNorm statistics": "attack.statistics",
    "weight perturbation (AWP)": "awp.gamma",
    "begins with the weights of": "init_from",
    "epochs": "num_epochs",
    "batch size": "data.batch_size",
    "augmentation": "data.augmentation",
    "generated images": "data.generated",
    "optimizer": "optimizer.name",
    "peak learning rate": "schedule.learning_rate",
    "schedule": "schedule.name",
    "weight decay": "optimizer.weight_decay",
    "weight averaging (EMA)": "ema.decay",
    "precision of training": "precision.train",
    "seed": "seed",
}


def card(
    claim: Claim, paper: Paper, network: Network, identifier: str, spec: Mapping[str, Any]
) -> str:
    """The text of README.md.

    Args:
      spec: model.json of the artifact.
    """
    front = yaml.safe_dump(
        metadata(claim, paper, network, identifier), sort_keys=False, allow_unicode=True, width=1000
    )
    sections = [
        [f"# {'DRAFT: ' if claim.missing else ''}{identifier}"],
        _draft(claim),
        _summary(claim, paper, network, spec),
        ["## Evaluation"],
        [f"{method(claim)}, {claim.threat}, eps = {claim.radius} in pixels of [0, 1]."],
        evaluation_table(claim),
        flag_lines(claim),
        ["## Use"],
        _use_in_jax(paper),
        _use_in_torch(network, spec),
        ["## Training"],
        _training(spec),
        ["## Limitations"],
        _limitations(claim),
        ["## Citation"],
        _citation(paper),
    ]
    body = "\n\n".join("\n".join(lines) for lines in sections if lines)
    return f"---\n{front}---\n\n{body}\n"


def metadata(claim: Claim, paper: Paper, network: Network, identifier: str) -> dict[str, Any]:
    """The YAML of the card, with a model-index: one result, two metrics in percent."""
    on_hub, name = DATASETS.get(claim.dataset, ("", claim.dataset))
    mark = f" ({DRAFT})" if claim.missing else ""
    count = f"{claim.result['num_examples']:,} test images"
    attack = f"{claim.result['attack']} {claim.result.get('attack_version', '')}".strip()
    threat = f"{claim.threat} eps = {claim.radius}"
    return {
        "license": paper.license,
        "library_name": "score-jax",
        "pipeline_tag": "image-classification",
        "tags": [
            "adversarial-robustness", "adversarial-training", "autoattack", "image-classification",
            "jax", "pytorch",
        ],
        **({"datasets": [on_hub]} if on_hub else {}),
        "metrics": ["accuracy"],
        "model-index": [
            {
                "name": identifier + mark,
                "results": [
                    {
                        "task": {"type": "image-classification", "name": "Image Classification"},
                        "dataset": {
                            "type": on_hub or claim.dataset, "name": name, "split": "test",
                        },
                        "metrics": [
                            {
                                "type": "accuracy",
                                "name": f"Clean accuracy, {count}{mark}",
                                "value": float(claim.clean),
                            },
                            {
                                "type": "robust_accuracy",
                                "name": f"Robust accuracy, {attack}, {threat}, {count}{mark}",
                                "value": float(claim.robust),
                                "args": {
                                    "attack": attack,
                                    "norm": claim.threat,
                                    "eps": claim.radius,
                                    "num_examples": claim.result["num_examples"],
                                    "architecture": network.architecture,
                                },
                            },
                        ],
                    }
                ],
            }
        ],
    }  # fmt: skip


def _draft(claim: Claim) -> list[str]:
    if not claim.missing:
        return []
    return [f"**{DRAFT}:**", "", *(f"- {reason}" for reason in claim.missing)]


def _summary(claim: Claim, paper: Paper, network: Network, spec: Mapping[str, Any]) -> list[str]:
    _, dataset = DATASETS.get(claim.dataset, ("", claim.dataset))
    size = spec.get("num_parameters")
    parameters = f" with {size:,} parameters" if size else ""
    lines = [
        f"{network.architecture}{parameters}, trained on {dataset} to withstand perturbations of "
        f"its input. Clean accuracy {claim.clean}%, robust accuracy {claim.robust}% "
        f"({claim.threat}, eps = {claim.radius}).",
        "",
        f"Paper: [{paper.title}]({paper.link}), {paper.authors}, {paper.venue}.",
    ]
    return [*lines, "", claim.footnote] if claim.footnote else lines


def _use_in_jax(paper: Paper) -> list[str]:
    source = f'snapshot_download("{paper.hub}")' if paper.hub else '"."'
    return [
        "In JAX, images are f32[b, h, w, c] in [0, 1]; the normalisation of the input is inside:",
        "",
        "```python",
        *(["from huggingface_hub import snapshot_download"] if paper.hub else []),
        "from score_jax import artifact",
        "",
        f"model = artifact.load({source})",
        "logits = artifact.logits_fn(model)(images)",
        "```",
    ]


def _use_in_torch(network: Network, spec: Mapping[str, Any]) -> list[str]:
    model = spec["model"]
    arguments = ", ".join(
        f"{field}={tuple(value) if isinstance(value, list) else value!r}"
        for field, value in model.items()
        if field != "name"
    )
    lines = [
        "In PyTorch, images are f32[b, c, h, w] in [0, 1]:",
        "",
        "```python",
        "import safetensors.torch",
        "from score_jax import torch_models",
        "",
        f"network = torch_models.create({model['name']!r}, {arguments})",
        'network.load_state_dict(safetensors.torch.load_file("pytorch_model.safetensors"))',
        "logits = network(images)",
        "```",
    ]
    if network.included:
        built = "\n".join([*network.imports, "", network.wrapper + f"network = {network.build}"])
        lines += ["", "The same tensors fit RobustBench's class:", "", "```python", built, "```"]
    return lines


def _training(spec: Mapping[str, Any]) -> list[str]:
    config = spec.get("config")
    if not config:
        origin = spec.get("origin") or {}
        source = f" They were read from `{origin['file']}`." if origin.get("file") else ""
        return [f"The weights were not trained by score-jax; see the paper.{source}"]
    rows = []
    for label, path in RECIPE.items():
        value: Any = config
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value in (None, "") or (path == "awp.gamma" and not value):
            continue
        rows.append(f"| {label} | {write_eps(value) if path == 'attack.step_size' else value} |")
    weights = "averaged weights" if spec.get("weights") == "ema" else "weights"
    rule = " on held-out training images" if spec.get("checkpoint") == "best" else ""
    return [
        "Trained by score-jax; `model.json` holds the whole config.",
        "",
        "| setting | value |",
        "|---|---|",
        *rows,
        *_images(spec),
        "",
        f"These are the {weights} of step {spec.get('step')}, the "
        f"{spec.get('checkpoint')} checkpoint{rule}.",
    ]


def _images(spec: Mapping[str, Any]) -> list[str]:
    """How many images the network saw, and what was done to their labels."""
    data, rows = spec["config"].get("data") or {}, []
    for kind, sets in (spec.get("training_images") or {}).items():
        counts = ", ".join(f"{size:,} of {name}" for name, size in sets.items())
        rows += [f"| {kind} images trained on | {counts} |"] if counts else []
    if data.get("label_noise"):
        rows.append(f"| wrong labels | {data['label_noise']:.1%} |")
    if data.get("pseudo_labels"):
        rows.append("| labels of generated images | another network's |")
    return rows


def _limitations(claim: Claim) -> list[str]:
    lines = [
        f"- Robustness was measured under {claim.threat} perturbations of eps = {claim.radius} "
        "only. Larger or other perturbations, corruptions and shifts of the data were not.",
        "- AutoAttack's figure is an upper bound: a stronger or adaptive attack may lower it.",
        f"- One training run on {claim.dataset}; no spread over seeds. Images of other sizes or "
        "with other classes need another network.",
        "- Not meant for decisions about people or for safety without an evaluation of its own.",
    ]
    if claim.unreliable:
        lines.insert(1, "- AutoAttack doubts this result: see its flags above.")
    return lines


def _citation(paper: Paper) -> list[str]:
    fields = {
        "title": paper.title,
        "author": " and ".join(paper.authors.split(", ")),
        "year": str(paper.year),
        "howpublished": paper.venue,
        "url": paper.link,
    }
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
    return ["```bibtex", f"@misc{{{paper.identifier},", *lines, "}", "```"]
