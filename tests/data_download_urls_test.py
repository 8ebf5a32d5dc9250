"""The table of official files."""

import importlib.util
import pathlib

from score_jax.data.datasets import DATASETS
from score_jax.data.download_urls import PAGES, URLS


def test_the_table_is_sound():
    for name, files in URLS.items():
        assert len({file.name for file in files}) == len(files), name
        for file in files:
            assert file.sha256 == "" or len(bytes.fromhex(file.sha256)) == 32
            assert file.sha256 or all(url.startswith("https://") for url in file.urls)
            assert all(url.rsplit("/", 1)[1] == file.name for url in file.urls)
    hashes = [file.sha256 for files in URLS.values() for file in files if file.sha256]
    assert len(set(hashes)) == len(hashes)
    assert set(PAGES).isdisjoint(URLS)


def test_published_checksums_are_those_of_tensorflow_datasets():
    known = {}
    root = pathlib.Path(importlib.util.find_spec("tensorflow_datasets").origin).parent
    files = [root / "url_checksums" / f"{n}.txt" for n in ("mnist", "fashion_mnist")]
    for file in [*files, root / "datasets" / "svhn_cropped" / "checksums.tsv"]:
        for line in file.read_text().splitlines():
            url, size, sha256, _ = line.split("\t")
            known[url] = (sha256, int(size))
    for name in ("mnist", "fashion_mnist", "svhn"):
        for file in URLS[name]:
            assert known[file.urls[0]] == (file.sha256, file.size)


def test_every_dataset_has_an_address_or_a_page_or_needs_none():
    needs_none = {name for name, spec in DATASETS.items() if not spec.example_source}
    assert set(DATASETS) - needs_none == set(URLS) | set(PAGES)
