"""How RobustBench calls our networks, and the lines that add one to its model zoo."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_PACKAGE = "robustbench.model_zoo.architectures"
_CIFAR = (32, 32, 3)  # The size that its classes pool over.


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network as the zoo builds it.

    Attributes:
      architecture: on the leaderboard, 'WideResNet-28-10'.
      suffix: of an identifier, 'WRN-28-10'.
      imports: lines of Python.
      wrapper: a class to define first, '' for none.
      build: an expression for the network without its weights.
      included: whether the class is RobustBench's.
    """

    architecture: str
    suffix: str
    imports: tuple[str, ...]
    wrapper: str = ""
    build: str
    included: bool = True


# Pattern of our name: architecture, suffix, module, what to import, arguments, in which {0} and {1}
# are groups of the pattern. Those of ReLU take pixels as they are: -normalized ones get a wrapper.
_RELU_ARGUMENTS = "depth={0}, widen_factor={1}, num_classes={num_classes}, sub_block1=False"
_DM_CONSTANTS = "activation_fn=nn.SiLU, mean={mean}, std={std}"
_BLOCKS = "[2, 2, 2, 2], num_classes={num_classes}"
ZOO = {
    r"wrn-(\d+)-(\d+)-swish": (
        "WideResNet-{0}-{1}", "WRN-{0}-{1}", "dm_wide_resnet", "DMWideResNet",
        "num_classes={num_classes}, depth={0}, width={1}, " + _DM_CONSTANTS,
    ),
    r"wrn-(\d+)-(\d+)-relu(?:-normalized)?": (
        "WideResNet-{0}-{1}", "WRN-{0}-{1}", "wide_resnet", "WideResNet", _RELU_ARGUMENTS,
    ),
    "preact-resnet-18-swish": (
        "PreActResNet-18", "PARN-18", "dm_wide_resnet", "DMPreActResNet",
        "num_classes={num_classes}, depth=18, width=0, " + _DM_CONSTANTS,
    ),
    "preact-resnet-18-relu(?:-normalized)?": (
        "PreActResNet-18", "PARN-18", "resnet", "PreActResNet, PreActBlockV2",
        f"PreActBlockV2, {_BLOCKS}, bn_before_fc=True",
    ),
    "preact-resnet-18-headless": (
        "PreActResNet-18", "PARN-18", "resnet", "PreActResNet, PreActBlockV2",
        f"PreActBlockV2, {_BLOCKS}, bn_before_fc=False",
    ),
    "resnet-18": ("ResNet-18", "RN-18", "resnet", "ResNet, BasicBlock", f"BasicBlock, {_BLOCKS}"),
}  # fmt: skip


def find(model: Mapping[str, Any]) -> Network:
    """The network of the `model` section of model.json; our own class where the zoo has none."""
    constants = {
        "num_classes": model["num_classes"],
        "mean": tuple(model["mean"]),
        "std": tuple(model["std"]),
    }
    for pattern, (architecture, suffix, module, names, arguments) in ZOO.items():
        match = re.fullmatch(pattern, model["name"])
        if not match or tuple(model["image_shape"]) != _CIFAR:
            continue
        groups = match.groups()
        class_name = names.partition(",")[0]
        filled = arguments.format(*groups, **constants)
        imports = [f"from {_PACKAGE}.{module} import {', '.join(sorted(names.split(', ')))}"]
        wrapper, build = "", f"{class_name}({filled})"
        if "nn." in filled:
            imports.insert(0, "from torch import nn\n")
        if model["name"].endswith("-normalized"):
            imports.insert(0, "import torch\n")
            wrapper, build = _normalized(class_name, filled, **constants), "Normalized()"
        return Network(
            architecture=architecture.format(*groups),
            suffix=suffix.format(*groups),
            imports=tuple(imports),
            wrapper=wrapper,
            build=build,
        )
    shape = tuple(model["image_shape"])
    return Network(
        architecture=model["name"],
        suffix=model["name"].upper(),
        imports=("from score_jax import torch_models",),
        build=f"torch_models.create({model['name']!r}, image_shape={shape}, "
        + ", ".join(f"{name}={value}" for name, value in constants.items())
        + ")",
        included=False,
    )


def _normalized(
    class_name: str, arguments: str, mean: tuple[float, ...], std: tuple[float, ...], **_: Any
) -> str:
    return f'''class Normalized({class_name}):
    """{class_name} that normalises its input; the constants are no part of the state_dict."""

    def __init__(self):
        super().__init__({arguments})
        for name, values in (("mu", {mean}), ("sigma", {std})):
            values = torch.tensor(values).view(1, -1, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def forward(self, x):
        return super().forward((x - self.mu) / self.sigma)


'''


def entry(network: Network, identifier: str, *, dataset: str, threat: str, draft: bool) -> str:
    """The text of zoo_entry.py: a module that holds the entry of one model.

    Args:
      threat: 'Linf' or 'L2'.
    """
    where = f"robustbench/model_zoo/{dataset}.py, `{threat.lower()}`"
    first = f"The entry of {identifier} for {where}."
    if not network.included:
        first = f"An entry for {identifier}: RobustBench has no such class, so this one is ours."
    mark = "DRAFT, not for submission.\n\n" if draft else ""
    imports = "\n".join(network.imports)
    return f'''"""{mark}{first}

The weights are {identifier}.pt: put the file on Google Drive and its identifier below.
"""

{imports}

{network.wrapper}ENTRY = (
    {identifier!r},
    {{
        "model": (
            lambda: {network.build}
        ),
        "gdrive_id": None,
    }},
)
'''
