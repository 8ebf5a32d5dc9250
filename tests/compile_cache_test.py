"""Compiled programs survive their process; damaged ones do not, and nothing fails for them."""

import json
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest

from score_jax import compile_cache, timing

ENTRIES = "*/jit_program-*-cache"


def compiled(folder):
    """Compiles one program under the cache: (its value, how many were compiled and read)."""

    def program(x):  # A new function each time: JAX's own memory does not know it.
        return jnp.sin(x) @ x

    with compile_cache.enabled(folder), compile_cache.counting() as programs:
        value = jax.jit(program).lower(jnp.ones(3)).compile()(jnp.arange(3.0))
    return float(value), (programs.requests, programs.hits)


@pytest.fixture
def folder(tmp_path):
    """A cache that holds one program."""
    jnp.arange(3.0), jnp.ones(3)  # Compiled before.
    assert compiled(tmp_path / "cache")[1] == (1, 0)
    return tmp_path / "cache"


def damage(folder, change):
    (entry,) = folder.glob(ENTRIES)
    entry.write_bytes(change(entry.read_bytes()))
    return entry


def test_a_program_is_read_and_not_compiled_again(folder):
    value, counts = compiled(folder)
    assert counts == (1, 1)
    assert value == float(jax.jit(lambda x: jnp.sin(x) @ x)(jnp.arange(3.0)))


def test_nothing_is_kept_after_the_run(folder):
    before = sorted(folder.rglob("*"))
    jax.jit(lambda x: x * 3.25 + 1)(jnp.ones(3))
    assert sorted(folder.rglob("*")) == before
    assert jax.config.jax_compilation_cache_dir is None


FLIP = lambda data: data[:900] + bytes([data[900] ^ 4]) + data[901:]  # noqa: E731
CUT = lambda data: data[:900]  # noqa: E731


@pytest.mark.parametrize("change", [FLIP, CUT])
def test_a_damaged_program_is_dropped_and_compiled_again(folder, change, caplog):
    entry = damage(folder, change)
    assert compiled(folder)[1] == (1, 0)
    assert f"not whole: {entry}" in caplog.text
    assert compiled(folder)[1] == (1, 1)


def test_a_program_that_nothing_vouches_for_is_dropped(folder):
    """The process was killed between the end of the write and the record of it."""
    for seals in folder.glob(f"*/{compile_cache.SEALS}"):
        seals.unlink()
    assert compiled(folder)[1] == (1, 0)


def recorded(folder):
    (seals,) = folder.glob(f"*/{compile_cache.SEALS}")
    return set(json.loads(seals.read_text()))


def compile_some(count):
    for number in range(count):
        jax.jit(lambda x, number=number: x * number + 0.5).lower(jnp.ones(3)).compile()


def test_a_killed_process_leaves_what_vouches_for_its_programs(tmp_path):
    with compile_cache.enabled(tmp_path):
        compile_some(1)
        assert {entry.name for entry in tmp_path.glob("*/*-cache")} == recorded(tmp_path) != set()


def test_slow_storage_is_not_asked_after_each_program(tmp_path, monkeypatch):
    write, times = compile_cache._write_seals, []

    def slow(*seals):
        times.append(time.monotonic())
        time.sleep(0.3)  # As much as several programs take to compile.
        write(*seals)

    monkeypatch.setattr(compile_cache, "_write_seals", slow)
    with compile_cache.enabled(tmp_path):
        compile_some(10)
    assert len(times) <= 4  # The start's, the first one, the end's; one more on a busy machine.
    assert {entry.name for entry in tmp_path.glob("*/*-cache")} == recorded(tmp_path)
    assert len(recorded(tmp_path)) >= 10


def test_a_program_that_is_damaged_later_is_compiled_again(folder):
    with compile_cache.enabled(folder):
        damage(folder, FLIP)
        with pytest.warns(UserWarning, match="Error reading persistent compilation cache entry"):
            assert compiled(folder)[1] == (1, 0)


def test_the_oldest_programs_go_first(tmp_path):
    for name, constant in (("old", 1.0), ("new", 2.0)):
        with compile_cache.enabled(tmp_path):

            def program(x, constant=constant):
                return x + constant

            program.__name__ = name
            jax.jit(program).lower(jnp.ones(3)).compile()
    (new,) = tmp_path.glob("*/jit_new-*-cache")
    with compile_cache.enabled(tmp_path, max_bytes=new.stat().st_size):
        pass
    assert list(tmp_path.glob("*/*-cache")) == [new]


def test_a_folder_that_cannot_be_written_is_told(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    _, counts = compiled(tmp_path / "file" / "cache")
    assert counts[1] == 0
    assert "compiled programs are not kept in" in caplog.text
    assert "a restart compiles again" in caplog.text


def test_a_chosen_folder_is_used_and_left_alone(tmp_path):
    chosen = tmp_path / "chosen"
    jax.config.update("jax_compilation_cache_dir", str(chosen))  # As $JAX_COMPILATION_CACHE_DIR.
    try:
        with compile_cache.enabled(tmp_path / "own") as used:
            assert used == chosen
        assert jax.config.jax_compilation_cache_dir == str(chosen)
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
    assert not list(tmp_path.iterdir())


def test_it_can_be_turned_off(tmp_path):
    jax.config.update("jax_enable_compilation_cache", False)  # $JAX_ENABLE_COMPILATION_CACHE=0.
    try:
        with compile_cache.enabled(tmp_path / "own") as used:
            assert used is None
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    assert not list(tmp_path.iterdir())


FULL = """
import resource, sys
from pathlib import Path
import jax, jax.numpy as jnp
from score_jax import compile_cache
with compile_cache.enabled(Path(sys.argv[1])):
    resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900))  # As a full disk: a write ends half-way.
    def program(x):
        return jnp.sin(x) @ x
    print(jax.jit(program)(jnp.arange(3.0)))
"""


def test_a_full_disk_is_no_error(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0 and run.stdout.startswith("2.66")
    assert "Error writing persistent compilation cache entry" in run.stderr
    assert not list(tmp_path.glob(ENTRIES))


def test_the_log_tells_that_nothing_was_compiled(folder, caplog):
    caplog.set_level("INFO")
    for words in (" s", "(from the cache)"):
        with timing.Timer(1).compiling("step"):
            compiled(folder if words != " s" else folder / "another")
        assert caplog.messages[-1].startswith("compiled the step in ")
        assert caplog.messages[-1].endswith(words)
