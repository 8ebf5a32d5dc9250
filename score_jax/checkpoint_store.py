"""One folder of checkpoints, each saved by Orbax in the background.

A save returns when the arrays are copied from the devices. Orbax writes to a temporary folder and
renames it when all processes have written and the digests are there: a killed save leaves none.
"""

import contextlib
import errno
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from score_jax import checkpoint_digests, distributed
from score_jax.types import UserError

LOGGER = logging.getLogger("score_jax")
UNFINISHED = ".orbax-checkpoint-tmp"


def steps(folder: Path) -> list[int]:
    """The committed steps in a folder, in rising order."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def remove_unfinished(folder: Path) -> None:
    """Removes what killed saves left; only folders that are named as those of a save."""
    for path in folder.glob(f"*{UNFINISHED}*"):
        if path.name.partition(".")[0].isdigit() and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)


class Store:
    """The checkpoints in one folder: one save at a time, the newest `keep` are kept."""

    def __init__(
        self, folder: Path, keep: int, before_commit: Callable[[], None] = lambda: None
    ) -> None:
        """`before_commit` runs in the background, on process 0; what it raises fails the save."""
        self.folder = folder
        self._before_commit = before_commit
        self._step: int | None = None  # Of the save that began last.
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        processes = jax.process_count()
        # With the processes named, Orbax waits for them without a program on the devices, which
        # in a background thread could run in another order than on another host.
        together = ocp.options.MultiprocessingOptions(
            active_processes=set(range(processes)) if processes > 1 else None,
            barrier_sync_key_prefix=folder.name,
        )
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            create=False,
            enable_async_checkpointing=True,
            single_host_load_and_broadcast=True,  # One list of steps, also where folders lag.
            multiprocessing_options=together,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
        )
        handlers = {
            "state": ocp.PyTreeCheckpointHandler(multiprocessing_options=together),
            "about": ocp.JsonCheckpointHandler(multiprocessing_options=together),
        }
        self._manager = ocp.CheckpointManager(folder, options=options, item_handlers=handlers)

    def steps(self) -> list[int]:
        """The steps here, with the one that is being saved; the same on all processes."""
        return sorted(self._manager.all_steps())

    def reload(self) -> None:
        """Reads the folder again; all processes together."""
        self._manager.reload()

    def delete(self, step: int) -> None:
        """Deletes a step; all processes together."""
        self._manager.delete(step)

    def restore(self, step: int, abstract: Any) -> tuple[Any, dict[str, Any]]:
        """(state laid out as `abstract`, what is saved about it); all processes together.

        Raises:
          UserError: Orbax cannot read it into `abstract`.
        """
        arguments = ocp.checkpoint_utils.construct_restore_args(abstract)
        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeRestore(abstract, restore_args=arguments),
                    about=ocp.args.JsonRestore(),
                ),
            )
        except (ValueError, KeyError, OSError, TypeError) as error:
            raise UserError(
                f"checkpoint {self.folder / str(step)} cannot be read "
                f"({' '.join(str(error).split())[:150]}); if it is not of this version and config, "
                "move that folder away: the same command then goes on from the one before"
            ) from error
        return restored.state, restored.about

    def save(self, step: int, state: Any, about: dict[str, Any]) -> None:
        """Begins a save; a step that is saved already stays as it is. All processes together.

        Returns:
          when the arrays are copied: they may be donated.

        Raises:
          UserError: the storage refused this save, or the one before.
        """
        self.wait()
        if step in self._manager.all_steps():
            return
        with self._explained(step):
            self._check_room(state)
            self._step = step
            is_begun = self._manager.save(
                step,
                force=True,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(state), about=ocp.args.JsonSave(about)
                ),
            )
        if not is_begun:
            raise RuntimeError(f"Orbax skipped checkpoint {self.folder / str(step)}")
        self._thread = threading.Thread(target=self._watch, name=f"save-{step}")
        self._thread.start()

    def join(self) -> None:
        """Waits until nothing is being saved.

        Raises:
          Exception: what the save met.
        """
        if self._thread is not None:
            self._thread.join()
        if self._failure is not None:
            raise self._failure

    def check(self) -> None:
        """Raises what a save met, as soon as it did; never waits."""
        if self._failure is not None and not getattr(self._failure, "is_told", False):
            self._failure.is_told = True  # The save that waited for this one met it too.
            raise self._failure

    def wait(self) -> None:
        """Waits until nothing is being saved, and raises what the save met."""
        if self._thread is not None:
            self._thread.join()
        self.check()

    def close(self) -> None:
        """Waits, and writes a line about what nobody was told; raises nothing."""
        try:
            self.wait()
        except Exception as error:
            LOGGER.error("%s", error)
        with contextlib.suppress(Exception):
            self._manager.wait_until_finished()  # Raises once in each thread what is told above.
        self._manager.close()

    def _seal(self) -> None:
        self._before_commit()
        (unfinished,) = self.folder.glob(f"{self._step}{UNFINISHED}*")
        checkpoint_digests.write(unfinished)

    def _watch(self) -> None:
        try:
            with self._explained(self._step):
                self._manager.wait_until_finished()
        except Exception as error:
            if jax.process_count() == 1:  # Elsewhere others may be writing; the next start does it.
                remove_unfinished(self.folder)
            self._failure = error

    def _check_room(self, state: Any) -> None:
        """Refuses to begin a save that cannot end; all processes agree."""
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self.folder).free
        if distributed.from_primary(free < 1.1 * needed):
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {needed} bytes into {free}")

    @contextlib.contextmanager
    def _explained(self, step: int | None) -> Iterator[None]:
        """Turns what the storage refused into one line."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            reason = _storage_failure(error)
            if reason is None:
                raise
            raise UserError(
                f"checkpoint {self.folder / str(step)} could not be written ({reason}); the "
                "earlier ones are whole: make room, then give the same command again"
            ) from error


def _storage_failure(error: BaseException) -> str | None:
    """What the storage refused, in a few words, out of TensorStore's long message; else None."""
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
    return next((os.strerror(code) for code in codes if os.strerror(code) in str(error)), None)
