"""One folder of checkpoints, each saved by Orbax in the background.

A save returns when the arrays are copied from the devices. Orbax writes to a temporary folder and
renames it when all processes have written and the digests are there: a killed save leaves none.
"""

import contextlib
import errno
import logging
import os
import shutil
import sys
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
REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EFBIG: "allow larger files (ulimit -f)",
    errno.EROFS: "make the folder writable",
    errno.EACCES: "give this user its rights",
    errno.EPERM: "give this user its rights",
    errno.EIO: "look after the disk",
    errno.ESTALE: "mount the storage again",
    errno.ENOTCONN: "mount the storage again",
}


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


def drop_late_callbacks() -> None:
    """Keeps standard error free of TensorStore's traces of arrays whose save or read was given up.

    The first failure ends Orbax's event loop, and those of the other arrays come later; Python
    writes each as an exception that nobody can catch.
    """
    previous = sys.unraisablehook
    if getattr(previous, "drops_late_callbacks", False):
        return

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            previous(unraisable)

    hook.drops_late_callbacks = True
    sys.unraisablehook = hook


def _barrier(processes: set[int] | None) -> Callable[..., None]:
    """Where the processes wait for each other in the background: not one whose save has failed.

    Orbax lets it wait too, for others that wait for its part: twenty minutes, and nobody is told.
    """
    wait = ocp.multihost.get_barrier_sync_fn(processes=processes)

    def barrier(*, key: str, timeout_ms: int) -> None:
        failure = sys.exc_info()[1]  # This thread is on its way out, in a `finally` of Orbax.
        if failure is not None and threading.current_thread() is not threading.main_thread():
            raise failure
        wait(key=key, timeout_ms=timeout_ms)

    return barrier


def remove(folder: Path, step: int) -> None:
    """Removes a step; a kill in between leaves no half of it under the name of a checkpoint."""
    old = folder / f"{step}.removed{UNFINISHED}"
    (folder / str(step)).rename(old)
    shutil.rmtree(old, ignore_errors=True)


class Store:
    """The checkpoints in one folder: one save at a time.

    The newest `keep` are kept, and those of steps that are multiples of `keep_every`; 0: of none.
    """

    def __init__(
        self,
        folder: Path,
        keep: int,
        keep_every: int = 0,
        before_commit: Callable[[], None] = lambda: None,
    ) -> None:
        """`before_commit` runs in the background, on process 0; what it raises fails the save."""
        drop_late_callbacks()
        self.folder = folder
        self._keep, self._keep_every = keep, keep_every
        self._before_commit = before_commit
        self._step: int | None = None  # Of the save that began last.
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        # With the processes named, Orbax waits for them without a program on the devices.
        everybody = set(range(jax.process_count())) if jax.process_count() > 1 else None
        together = ocp.options.MultiprocessingOptions(
            active_processes=everybody, barrier_sync_key_prefix=folder.name
        )
        background = ocp.AsyncOptions(
            post_finalization_callback=self._seal,
            barrier_sync_fn=_barrier(everybody),
            # Else a folder that cannot be made keeps threads, and the process, for five minutes.
            create_directories_asynchronously=False,
        )
        options = ocp.CheckpointManagerOptions(
            create=False,
            enable_async_checkpointing=True,
            single_host_load_and_broadcast=True,  # One list of steps, also where folders lag.
            multiprocessing_options=together,
            async_options=background,
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

    def remove_after(self, step: int) -> None:
        """Removes the steps after this one; all processes together."""
        if distributed.is_primary():
            for later in [found for found in steps(self.folder) if found > step]:
                remove(self.folder, later)
        self.reload()

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
        if self._failure is not None and jax.process_count() > 1:
            return  # The others wait for this process, and would keep it; it has to end.
        with contextlib.suppress(Exception):  # Orbax repeats what is told above.
            self._manager.close()
        self._clean_up()

    def _seal(self) -> None:
        self._before_commit()
        (unfinished,) = self.folder.glob(f"{self._step}{UNFINISHED}*")
        checkpoint_digests.write(unfinished)

    def _watch(self) -> None:
        try:
            with self._explained(self._step):
                self._manager.wait_until_finished()
                if distributed.is_primary():
                    for old in steps(self.folder)[: -self._keep]:
                        if not self._keep_every or old % self._keep_every:
                            remove(self.folder, old)
        except Exception as error:
            self._failure = error
            self._clean_up()

    def _clean_up(self) -> None:
        """Frees the room of a failed save; where others may be writing, the next start does."""
        if self._failure is not None and jax.process_count() == 1:
            remove_unfinished(self.folder)

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
            reason, remedy = _storage_failure(error)
            if reason is None:
                raise
            raise UserError(
                f"checkpoint {self.folder / str(step)} could not be written ({reason}); the "
                f"earlier ones are whole: {remedy}, then give the same command again"
            ) from error


def _storage_failure(error: BaseException) -> tuple[str | None, str]:
    """What the storage refused, in a few words, out of TensorStore's long message; and a remedy."""
    found = (code for code in REMEDIES if os.strerror(code) in str(error))
    code = next(found, None)
    return (None, "") if code is None else (os.strerror(code), REMEDIES[code])
