"""The training step of the SCORE and TRADES papers in PyTorch, written from their algorithms."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from score_jax import interop, torch_models
from score_jax.artifact import flatten
from score_jax.data import sources
from score_jax.objectives.trades import Trades
from score_jax.recipes import Run

LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


class TorchTrainer:
    """The step of the SCORE and TRADES papers in PyTorch."""

    def __init__(self, run: Run, data: str, model: str, params, batch_stats, dtype):
        self.recipe = run.recipe
        spec = sources.DATASETS[data]
        network = torch_models.create(
            model, num_classes=spec.num_classes, image_shape=spec.image_shape, mean=spec.mean,
            std=spec.std,
        )  # fmt: skip
        self.network = network.to(dtype).train().requires_grad_(True)
        for name in ("mean", "std"):
            if getattr(network, name) is not None:  # At full precision, not rounded to float32.
                column = torch.tensor(getattr(spec, name), dtype=dtype).reshape(-1, 1, 1)
                setattr(network, name, column)
        self.modules = interop.module_names(model, params, batch_stats)
        own = dict(network.named_parameters()) | dict(network.named_buffers())
        with torch.no_grad():
            for tree in (params, batch_stats):
                for name, values in self.in_our_names(tree).items():
                    own[name].copy_(torch.from_numpy(np.array(values)))
        self.batchnorms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        self.momenta = [module.momentum for module in self.batchnorms]
        spared = {id(p) for module in self.batchnorms for p in module.parameters()}
        parameters = list(network.parameters())
        self.optimizer = torch.optim.SGD(
            [
                {"params": [p for p in parameters if id(p) not in spared], "weight_decay": 5e-4},
                {"params": [p for p in parameters if id(p) in spared], "weight_decay": 0.0},
            ],
            lr=1.0, momentum=0.9, nesterov=True,
        )  # fmt: skip
        self.average = {name: p.detach().clone() for name, p in network.named_parameters()}
        self.steps = 0

    def in_our_names(self, tree) -> dict[str, np.ndarray]:
        """Leaves of our trees under PyTorch's names, in PyTorch's layout."""
        found = {}
        for path, leaf in flatten(tree, ""):
            module, _, last = path.removeprefix("/").rpartition("/")
            order = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[np.ndim(leaf)]
            found[f"{self.modules[module]}.{LEAVES[last]}"] = np.asarray(leaf).transpose(order)
        return found

    def record(self, on: bool) -> None:
        """Whether the next passes, all by batch statistics, move the running averages."""
        first = self.recipe.first_step_momentum if self.steps == 0 else None
        for module, momentum in zip(self.batchnorms, self.momenta, strict=True):
            module.momentum = (momentum if first is None else first) if on else 0.0

    def divergence(self, logits: Tensor, clean: Tensor) -> Tensor:
        """What the attack ascends and the outer loss weighs by beta, f[b]."""
        if isinstance(self.recipe.objective, Trades):
            log_clean = functional.log_softmax(clean, 1)
            return (log_clean.exp() * (log_clean - functional.log_softmax(logits, 1))).sum(1)
        return (logits.softmax(1) - clean.softmax(1)).square().sum(1)

    def clean_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if isinstance(self.recipe.objective, Trades):
            return functional.cross_entropy(logits, labels, reduction="none")
        onehot = functional.one_hot(labels, logits.shape[1]).to(logits.dtype)
        return (logits.softmax(1) - onehot).square().sum(1)

    def attack(self, images: Tensor, noise: Tensor) -> Tensor:
        """L∞ PGD away from the clean prediction."""
        attack = self.recipe.attack
        eps = attack.threat.eps

        def project(x):
            x = torch.minimum(torch.maximum(x, images - eps), images + eps)
            return x.clamp(0, 1)

        self.record(False)
        with torch.no_grad():
            clean = self.network(images)
        moved = project(images + noise)
        for _ in range(attack.num_steps):
            moved.requires_grad_()
            loss = self.divergence(self.network(moved), clean).sum()
            (slope,) = torch.autograd.grad(loss, moved)
            moved = project(moved.detach() + attack.step_size * slope.sign())
        self.record(True)
        return moved.detach()

    def step(self, batch: dict[str, Tensor], learning_rate: float, momentum: float) -> float:
        """One update; returns its loss."""
        images, noise = (batch[name].permute(0, 3, 1, 2) for name in ("images", "start_noise"))
        labels = batch["labels"].long()
        adversarial = self.attack(images, noise)
        clean = self.network(images)
        attacked = self.network(adversarial)
        robust = self.divergence(attacked, clean)
        loss = (self.clean_loss(clean, labels) + self.recipe.objective.beta * robust).mean()
        self.optimizer.zero_grad()
        loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"], group["momentum"] = learning_rate, momentum
        self.optimizer.step()
        self.steps += 1
        since = self.steps - self.recipe.ema_warmup_steps
        # Our step computes the decay in float32 whatever the weights are in.
        dynamic = min(np.float32(self.recipe.ema_decay), np.float32(1 + since) / (10 + since))
        decay = float(dynamic) if since >= 0 else 0.0
        with torch.no_grad():
            for name, p in self.network.named_parameters():
                self.average[name] = decay * self.average[name] + (1 - decay) * p
        return float(loss.detach())

    def distances(self, state) -> dict[str, float]:
        """The largest difference from our state: parameters, averages, BatchNorm statistics."""
        theirs = {
            "params": dict(self.network.named_parameters()),
            "ema_params": self.average,
            "batch_stats": dict(self.network.named_buffers()),
        }
        return {
            name: max(
                float(np.abs(values - tensors[stored].detach().numpy()).max())
                for stored, values in self.in_our_names(getattr(state, name)).items()
            )
            for name, tensors in theirs.items()
        }
