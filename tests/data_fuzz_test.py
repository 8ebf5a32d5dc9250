"""Every reader, given damaged files: one line or the same content, and nothing half-written."""

import resource
import shutil
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

from score_jax import prepare
from score_jax.data import readers, sources
from score_jax.types import UserError
from tests import official_files as official
from tests.fuzz_sources import FORMS, SIZES
from tests.helpers import whole
from tests.mutations import mutate

PER_FORM = 10  # In the quick suite, where all forms together make some 200.
PER_FORM_SLOW = 120
# Of whose many files a reading takes long: so many times fewer.
LARGE = {"imagenet folder": 8, "tiny_imagenet zip": 4}
MEMORY = 200 << 10  # Kilobytes that all readings of a form together may add.
SECONDS = 5.0


@pytest.fixture(autouse=True)
def small_datasets(monkeypatch):
    for name, sizes in SIZES.items():
        official.shrink(monkeypatch, name, **sizes)


@pytest.fixture(params=FORMS)
def form(request, tmp_path):
    name, write, checked = FORMS[request.param]
    (tmp_path / "source").mkdir()
    return request.param, name, Path(write(tmp_path / "source")), checked


def read(name, source):
    _, splits = readers.read_source(name, (str(source),))
    return {split: whole(raw) for split, raw in splits.items()}


def files_of(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    return sorted(path for path in source.rglob("*") if path.is_file())


def check(found, content, checked):
    """That what a damaged file was read as is what it was, or at least images and labels."""
    for split, (images, labels) in found.items():
        assert images.dtype == np.uint8 and labels.dtype == np.int32
        assert images.ndim == 4 and images.shape[0] == labels.shape[0] > 0 and labels.min() >= 0
        if checked:
            np.testing.assert_array_equal(images, content[split][0])
            np.testing.assert_array_equal(labels, content[split][1])
    if checked:
        assert set(found) == set(content)


def damaged(form, count, seed):
    """Damages one file after another, each time from the whole one; tells which way."""
    title, _, source, _ = form
    files = files_of(source)
    for index in range(count):
        rng = np.random.default_rng((zlib.crc32(title.encode()), seed, index))
        file = files[int(rng.integers(len(files)))]
        before = file.read_bytes()
        way, after = mutate(before, rng)
        file.write_bytes(after)
        try:
            yield f"{title}, seed {seed}, number {index}: {way} of {file.name}"
        finally:
            file.write_bytes(before)


def fuzz(form, count, seed, attempt):
    """Refused and accepted; `attempt` reads the source, or raises UserError of one line."""
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts = [0, 0]
    for what in damaged(form, count, seed):
        start = time.monotonic()
        try:
            attempt()
            counts[1] += 1
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 1500, what
            counts[0] += 1
        except BaseException as error:
            raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
        assert time.monotonic() - start < SECONDS, what
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < MEMORY
    return counts


def fuzz_reader(form, count, seed):
    _, name, source, checked = form
    content = read(name, source)

    def attempt():
        check(read(name, source), content, checked)

    return fuzz(form, count, seed, attempt)


def fuzz_preparation(form, count, seed, tmp_path):
    _, name, source, checked = form
    content = read(name, source)
    folder = tmp_path / "data"

    def attempt():
        try:
            prepare.prepare(name, (str(source),), str(folder), workers=1)
        except UserError:
            assert not [path for path in folder.iterdir() if path.is_dir()]
            raise
        else:
            found = {
                split: (images.images, images.labels)
                for split in content
                for images in [sources.read_split(name, split, str(folder))]
            }
            check(found, content, checked)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    return fuzz(form, count, seed, attempt)


def test_damaged_sources_are_refused_in_one_line_or_read_as_they_were(form):
    refused, accepted = fuzz_reader(form, PER_FORM // LARGE.get(form[0], 1), seed=0)
    assert refused + accepted > 0


def test_a_damaged_source_leaves_no_dataset(form, tmp_path):
    fuzz_preparation(form, 1, seed=1, tmp_path=tmp_path)


@pytest.mark.slow
def test_many_damaged_sources(form, tmp_path):
    refused, accepted = fuzz_reader(form, PER_FORM_SLOW // LARGE.get(form[0], 1), seed=2)
    print(f"{form[0]}: {refused} refused, {accepted} read")
    assert refused > 0
    fuzz_preparation(form, 8 // LARGE.get(form[0], 1), seed=3, tmp_path=tmp_path)


def test_the_forms_are_those_of_all_readers():
    named = {name for name, _, _ in FORMS.values()}
    assert set(readers.READERS) - named == {"digits", "fashion_mnist"}
