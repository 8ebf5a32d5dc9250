"""The toy's trainings that one call asks for: each done once, with a progress line."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from score_jax.analysis import toy, toy_training
from score_jax.analysis.toy_training import Trained
from score_jax.writers_progress import counted

NUM_SIX = 5  # How many times six points are drawn: one draw alone tells little.
# (demo, divergence, sampling)
Key = tuple[str, str, str]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """What to train, and what is trained already.

    Attributes:
      demos, divergences: rows and columns of the figures.
      divergence: the one whose training is looked at step by step.
      num_draws: points of a step of 'even'; the others have six.
      seed: of the first training; those of six points take the next ones too.
      suffix: of the findings' names where not everything is asked for.
    """

    demos: tuple[str, ...]
    divergences: tuple[str, ...]
    divergence: str
    num_steps: int
    num_draws: int
    seed: int
    suffix: str
    done: dict[Key, tuple[Trained, ...]] = dataclasses.field(default_factory=dict)

    def train(self, what: str, keys: Iterable[Key]) -> dict[Key, tuple[Trained, ...]]:
        """The trainings, one a seed; does what is missing, and tells how far under `what`."""
        keys = list(keys)
        seeds = {key: range(1 if key[2] == "even" else NUM_SIX) for key in keys}
        missing = [(key, seed) for key in keys if key not in self.done for seed in seeds[key]]
        with counted(f"toy {what}: steps", len(missing) * self.num_steps) as tell:
            for number, (key, seed) in enumerate(missing):
                before = number * self.num_steps
                trained = self._fit(key, seed, lambda steps, before=before: tell(before + steps))
                self.done[key] = (*self.done.get(key, ()), trained)
        return {key: self.done[key] for key in keys}

    def _fit(self, key: Key, index: int, tell: Callable[[int], None]) -> Trained:
        demo, divergence, sampling = key
        return toy_training.fit(
            demo, divergence=divergence, sampling=sampling, num_steps=self.num_steps,
            num_draws=self.num_draws if sampling == "even" else 6, seed=self.seed + index,
            tell=tell,
        )  # fmt: skip

    def numbers(self, key: Key, index: int = 0) -> dict[str, Any]:
        """What a training found, for JSON; the risks in L1."""
        demo, divergence, sampling = key
        trained = self.done[key][index]
        return {
            "demo": demo,
            "divergence": divergence,
            "sampling": sampling,
            "train_loss": trained.loss,
            **toy_training.measure(trained.params),
        }

    def facts(self) -> dict[str, Any]:
        """What every finding of the toy says of how it was made."""
        return {
            "train_steps": self.num_steps,
            "draws_per_step": self.num_draws,
            "seed": self.seed,
            "eps": toy.EPS,
            "plotted": list(toy_training.PLOTTED),
        }
