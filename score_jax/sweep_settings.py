"""A sweep: which settings of a recipe are run, where, and as which commands."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from score_jax import config as config_module
from score_jax import overrides
from score_jax.overrides import Setting
from score_jax.types import UserError


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What is run: the settings of a recipe, and how they are judged.

    Attributes:
      recipe: `PATH[:ARG]` with a `sweep()`.
      workdir: each setting has its own folder in it.
      overrides: `FIELD=VALUE`, applied to every setting before its own.
      num_examples: test images that are attacked, the first ones; 0: all.
      backend: of AutoAttack, see `official_autoattack.run`.
    """

    recipe: str
    workdir: str
    overrides: tuple[str, ...] = ()
    data_dir: str = ""
    num_examples: int = 0
    backend: str = "bridge"

    def settings(self) -> list[Setting]:
        """In the order of the recipe."""
        return overrides.load_sweep(self.recipe)

    def setting(self, index: int) -> Setting:
        """One of them.

        Raises:
          UserError: there are not so many.
        """
        settings = self.settings()
        if not 0 <= index < len(settings):
            raise UserError(
                f"--sweep_index={index}: {self.recipe} has {len(settings)} settings, "
                f"0 to {len(settings) - 1}"
            )
        return settings[index]

    def folder(self, setting: Setting) -> Path:
        """The run folder of a setting."""
        return Path(self.workdir) / setting.name

    def changes(self, setting: Setting) -> list[str]:
        """All overrides of a setting, in order."""
        data = [f"data.dir={self.data_dir}"] if self.data_dir else []
        return [*data, *self.overrides, *setting.overrides]

    def config(self, setting: Setting) -> Any:
        """The config of a setting, checked."""
        from score_jax import recipes

        config = recipes.load(setting.recipe, self.changes(setting))
        config_module.validate(config)
        return config

    def flags(self, setting: Setting) -> list[str]:
        """The flags that `score-jax train` needs for a setting."""
        words = [f"--config={setting.recipe}"]
        words += [f"--data_dir={self.data_dir}"] if self.data_dir else []
        words += [f"--config.{text}" for text in (*self.overrides, *setting.overrides)]
        return [*words, f"--workdir={self.folder(setting)}"]

    def train_commands(self) -> list[str]:
        """One `score-jax train` command a setting."""
        return [
            shlex.join(["score-jax", "train", *self.flags(setting)]) for setting in self.settings()
        ]

    def command(self, index: int) -> list[str]:
        """The command line of the process that runs one setting."""
        words = [f"--config={self.recipe}", f"--workdir={self.workdir}", f"--sweep_index={index}"]
        words += [f"--data_dir={self.data_dir}"] if self.data_dir else []
        words += [f"--num_examples={self.num_examples}", f"--backend={self.backend}"]
        words += [f"--config.{text}" for text in self.overrides]
        return [sys.executable, "-m", "score_jax", "sweep", *words]
