"""Processes that write shards side by side, each fed through a pipe.

One process reads the source, in order, once; what it reads goes to the lane of its shard. The
processes start with this module alone, need no copy of the source, and end when their pipe does:
none outlives a reader that was killed.

What goes through a pipe: lines of JSON, {"open": {...}}, {"images": k} followed by the images'
bytes and the labels as int32, {"close": true}, which is answered with the shard's facts or with
{"error": ..., "errno": ...}.
"""

import dataclasses
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from score_jax.data.shards import DamagedShard, Shard, ShardFacts

QUEUED_BYTES = 256 << 20  # Read and not yet taken by the processes, of all lanes together.
SLICE_BYTES = 4 << 20  # The most that goes to a lane at once.

Done = Callable[[Path, ShardFacts], None]


class Lane:
    """Writes shards one after the other in this process.

    done: called with the path that was written and what is known about the shard.
    """

    pending = 0

    def __init__(self, done: Done) -> None:
        self._done = done
        self._shard: Shard | None = None

    def open(self, **shard: Any) -> None:
        """Begins a shard; the arguments are those of `Shard`."""
        self._path, self._shard = shard["path"], Shard(**shard)

    def add(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Appends to it."""
        self._shard.add(images, labels)

    def close(self) -> None:
        """Ends it."""
        self._done(self._path, self._shard.close())
        self._shard = None

    def finish(self) -> None:
        """Waits until all is written."""

    def kill(self) -> None:
        """Gives up what is not written."""
        if self._shard is not None:
            self._shard.abandon()


class ProcessLane:
    """The same in a process of its own: calls return before their work is done.

    An error of the process is raised by one of the calls that come after.
    """

    def __init__(self, done: Done, queued: int) -> None:
        self._done = done
        self._error: BaseException | None = None
        self._queue: queue.Queue[tuple[str, Any] | None] = queue.Queue(queued)
        root = str(Path(__file__).resolve().parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "score_jax.data.lanes"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            process_group=0,  # A Ctrl-C is for the reader alone.
        )
        self._thread = threading.Thread(target=self._feed, name="shards", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """How much it has to do."""
        return self._queue.unfinished_tasks

    def open(self, **shard: Any) -> None:
        """As `Lane.open`."""
        self._put("open", shard)

    def add(self, images: np.ndarray, labels: np.ndarray) -> None:
        """As `Lane.add`; the arrays must not change after."""
        self._put("add", (images, labels))

    def close(self) -> None:
        """As `Lane.close`."""
        self._put("close", None)

    def finish(self) -> None:
        """As `Lane.finish`."""
        self._queue.put(None)
        self._thread.join()
        if self._error:
            raise self._error
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def kill(self) -> None:
        """As `Lane.kill`."""
        self._process.kill()
        self._queue.put(None)  # The thread takes it: a broken pipe has made it empty the queue.
        self._thread.join()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                pipe.close()
            except BrokenPipeError:
                pass

    def _put(self, kind: str, value: Any) -> None:
        if self._error:
            raise self._error
        self._queue.put((kind, value))

    def _feed(self) -> None:
        try:
            while (item := self._queue.get()) is not None:
                try:
                    getattr(self, f"_send_{item[0]}")(item[1])
                except BrokenPipeError:
                    self._answer()  # Why it ended.
                    raise
                del item
                self._queue.task_done()
        except BaseException as error:
            self._error = error
            while self._queue.get() is not None:
                self._queue.task_done()

    def _send_open(self, shard: dict[str, Any]) -> None:
        self._path = shard["path"]
        known = shard.get("known")
        facts = {"known": dataclasses.asdict(known) if known else None}
        self._write({"open": {**shard, "path": str(self._path), **facts}})

    def _send_add(self, block: tuple[np.ndarray, np.ndarray]) -> None:
        images, labels = block
        self._write({"images": len(labels)})
        self._process.stdin.write(memoryview(np.ascontiguousarray(images)).cast("B"))
        self._process.stdin.write(memoryview(labels.astype("<i4")).cast("B"))

    def _send_close(self, _: None) -> None:
        self._write({"close": True})
        self._process.stdin.flush()
        self._done(self._path, ShardFacts.of(self._answer()))

    def _write(self, message: dict[str, Any]) -> None:
        self._process.stdin.write(json.dumps(message).encode() + b"\n")

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            raise OSError(f"a process that wrote {self._path} ended with exit status {status}")
        answer = json.loads(line)
        if "error" in answer and answer["errno"]:
            raise OSError(answer["errno"], answer["error"], str(self._path))
        if "error" in answer:
            raise DamagedShard(answer["error"])
        return answer


class Lanes:
    """So many lanes; one writes in this process, several in one process each.

    Shards are begun, filled and ended in their order, each on the lane with the least to do. Used
    in a `with`: what ends it early ends the processes too.
    """

    def __init__(self, workers: int, done: Done) -> None:
        queued = max(2, QUEUED_BYTES // (workers * SLICE_BYTES))
        self._lanes: list[Lane | ProcessLane] = []
        try:
            for _ in range(workers):
                self._lanes.append(Lane(done) if workers == 1 else ProcessLane(done, queued))
        except BaseException:
            self._kill()
            raise

    def __enter__(self) -> "Lanes":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is not None:
            return self._kill()
        try:
            for lane in self._lanes:
                lane.finish()
        except BaseException:
            self._kill()
            raise

    def _kill(self) -> None:
        for lane in self._lanes:
            lane.kill()

    def open(self, **shard: Any) -> None:
        """Begins the next shard; the arguments are those of `Shard`."""
        self._lane = min(self._lanes, key=lambda lane: lane.pending)
        self._lane.open(**shard)

    def add(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Appends to it."""
        self._lane.add(images, labels)

    def close(self) -> None:
        """Ends it."""
        self._lane.close()


def serve(stdin: BinaryIO, stdout: BinaryIO) -> None:
    """The process of a lane: writes what comes on `stdin`, tells of it on `stdout`."""
    shard, image_shape, buffer = None, (), bytearray()
    try:
        while line := stdin.readline():
            message = json.loads(line)
            if opened := message.get("open"):
                known = opened["known"]
                opened["known"] = ShardFacts.of(known) if known else None
                opened["path"] = Path(opened["path"])
                image_shape = opened["image_shape"] = tuple(opened["image_shape"])
                shard = Shard(**opened)
            elif count := message.get("images"):
                pixels = count * int(np.prod(image_shape))
                if len(buffer) < pixels + 4 * count:
                    buffer = bytearray(pixels + 4 * count)
                block = memoryview(buffer)[: pixels + 4 * count]
                if stdin.readinto(block) != len(block):
                    raise EOFError
                images = np.frombuffer(block[:pixels], np.uint8).reshape(count, *image_shape)
                shard.add(images, np.frombuffer(block[pixels:], "<i4"))
            else:
                facts, shard = shard.close(), None
                stdout.write(json.dumps(dataclasses.asdict(facts)).encode() + b"\n")
                stdout.flush()
    except DamagedShard as error:
        _tell(stdout, str(error), 0)
    except OSError as error:
        _tell(stdout, error.strerror or str(error), error.errno or 5)
    except EOFError:
        pass
    if shard is not None:
        shard.abandon()


def _tell(stdout: BinaryIO, text: str, number: int) -> None:
    try:
        stdout.write(json.dumps({"error": text, "errno": number}).encode() + b"\n")
        stdout.flush()
    except BrokenPipeError:
        pass


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
