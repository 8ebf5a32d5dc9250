"""The restricted pickle reader runs nothing and lets no file ask for memory."""

import os
import pickle
import struct
import tracemalloc

import numpy as np
import pytest

from score_jax import restricted_pickle
from score_jax.data import official_pickle
from score_jax.types import UserError
from tests import official_files as official

IMAGES = np.arange(2 * 32 * 32 * 3, dtype=np.uint32).astype(np.uint8).reshape(2, 32, 32, 3)


def refusal(content: bytes) -> str:
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as caught:
            official_pickle.load_batch(content, "FILE")
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert message.startswith("FILE") and "\n" not in message and "official" in message
    return message


def test_a_batch_is_read():
    data, labels = official_pickle.load_batch(official.python2_batch("b", IMAGES, [3, 7]), "FILE")
    np.testing.assert_array_equal(data, official.planes(IMAGES))
    assert labels.tolist() == [3, 7] and data.dtype == np.uint8


def test_nothing_that_a_file_names_is_run(tmp_path):
    class Run:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    for protocol in range(5):
        refusal(pickle.dumps({b"data": Run(), b"labels": []}, protocol))
    assert not (tmp_path / "made").exists()
    pickle.loads(pickle.dumps(Run()))  # The file would have run in Python's own reader.
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "name",
    [
        "builtins\neval",
        "numpy\nload",
        "numpy.core.multiarray\nscalar",
        "numpy\nzeros",
        "os\nsystem",
    ],
)
def test_other_names_are_refused(name):
    module, attribute = name.split("\n")
    assert f"{module}.{attribute}" in refusal(b"\x80\x02c" + name.encode() + b"\n.")


def test_a_huge_memo_number_is_refused():
    assert "numbers a value" in refusal(b"\x80\x02}r" + struct.pack("<I", 2**31) + b".")


def test_a_huge_array_is_refused():
    huge = official.python2_array(np.zeros((1, 1), np.uint8)).replace(
        struct.pack("<i", 1), struct.pack("<i", 10**6)
    )
    refusal(official.python2_batch("b", IMAGES, [1, 2], array=huge))
    direct = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n(J\xff\xff\xff\x7ftU\x01b\x87R"
    )
    assert "NumPy's way" in refusal(official.python2_batch("b", IMAGES, [1, 2], array=direct))
    called = b"cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85R"
    refusal(official.python2_batch("b", IMAGES, [1, 2], array=called))


REPEATED = {
    "bytes": (
        b"X" + struct.pack("<I", 1 << 17) + b"a" * (1 << 17),
        b"c_codecs\nencode\nh\x00\x85R",
    ),
    "objects": (
        b"](" + b"N" * (1 << 17) + b"e",
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01J\x00\x00\x02\x00\x85cnumpy\ndtype\nU\x01O\x85R\x89h\x00tb",
    ),
}  # Each a value, put as the first of the memo, and what makes a large copy of it.


@pytest.mark.parametrize("kind", REPEATED)
def test_many_copies_of_one_value_are_refused(kind):
    value, copy = REPEATED[kind]
    for copies in (1, 400):
        content = b"\x80\x02(" + value + b"q\x00" + copies * copy + b"l."
        if copies == 1:
            assert len(restricted_pickle.loads(content)) == 2
        else:
            with pytest.raises(ValueError, match="unpacks to more than it holds"):
                restricted_pickle.loads(content)
            refusal(content)


@pytest.mark.parametrize(
    "string",
    [
        b"\x8e" + struct.pack("<Q", 2**40),  # Bytes,
        b"\x8d" + struct.pack("<Q", 2**40),  # text,
        b"X" + struct.pack("<I", 2**31),  # shorter text,
        b"T" + struct.pack("<i", -5),  # a negative length,
        b"T",  # none,
        b"I" + b"1" * 10000,  # and a number without end.
    ],
)
def test_a_long_string_that_is_not_there_is_refused(string):
    refusal(b"\x80\x04" + string + b"abc.")


def test_many_small_values_are_refused():
    """One byte of the file makes a dict of 64."""
    message = refusal(b"\x80\x04(" + b"}" * (1 << 20) + b"l.")
    assert "more than 17384 instructions" in message


@pytest.mark.parametrize("reference", [b"K\x00Q", b"P0\n"])
def test_a_file_cannot_refer_to_what_was_left(reference):
    content = b"\x80\x04}(C\x04dataB" + struct.pack("<I", 1 << 15) + bytes(1 << 15)
    assert "instruction" in refusal(content + b"C\x06labels" + reference + b"u.")


@pytest.mark.parametrize(
    "shape", [b"J\xff\xff\xff\xff\x85", b"X\x01\x00\x00\x00a\x85", b"N", b"\x88\x85"]
)
def test_the_shape_of_a_long_array_is_checked(shape):
    images = np.zeros((20, 32 * 32 * 3), np.uint8)
    array = official.python2_array(images)
    written = b"(" + b"J" + struct.pack("<i", 20) + b"J" + struct.pack("<i", 3072) + b"t"
    assert written in array
    batch = official.python2_batch("b", IMAGES, [1] * 20, array=array.replace(written, shape))
    assert "shape" in refusal(batch)
    wrong = array.replace(struct.pack("<i", 3072), struct.pack("<i", 3073))
    batch = official.python2_batch("b", IMAGES, [1] * 20, array=wrong)
    assert "an array of shape (20, 3073) in 61440 bytes" in refusal(batch)


@pytest.mark.parametrize("dtype", [b"f4", b"c8", b"i8"])
def test_other_types_than_uint8_are_refused(dtype):
    array = official.python2_array(np.zeros((2, 3), dtype.decode()), dtype)
    content = official.python2_batch("b", IMAGES, [1, 2], array=array)
    assert repr(dtype.decode()) in refusal(content)


@pytest.mark.parametrize(
    "target", [b"cnumpy.core.multiarray\n_reconstruct\n", b"c_codecs\nencode\n", b"cnumpy\ndtype\n"]
)
@pytest.mark.parametrize(
    "state",
    [
        b"}U\x05stainK\x01s", b"N}U\x0c__defaults__)s\x86", b"N}U\x07__doc__K\x01s\x86",
        b"N}U\x07_budgetNs\x86",
    ],
)  # fmt: skip
def test_a_file_cannot_alter_the_reader(target, state):
    content = b"\x80\x02" + target + state + b"b."
    refusal(content)
    with pytest.raises((ValueError, TypeError, AttributeError)):
        restricted_pickle.loads(content)
    for value in restricted_pickle.known_names(0).values():
        assert not hasattr(value, "stain") and value.__doc__ != 1


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"\x80\x02", b"\x80\x02}.", b"\x80\x02].", pickle.dumps({b"data": 1})],
)
def test_what_is_no_batch_is_refused(content):
    refusal(content)


def test_every_truncation_is_refused():
    content = official.python2_batch("b", IMAGES, [3, 7])
    for end in range(0, len(content), 97):
        refusal(content[:end])


def test_images_of_objects_are_refused():
    refusal(pickle.dumps({b"data": np.empty(2, object), b"labels": [1, 2]}, 4))
    array = official.python2_array(np.zeros((2, 3), "O"), b"O")
    assert "not of its type" in refusal(official.python2_batch("b", IMAGES, [1, 2], array=array))


def test_labels_of_fractions_are_refused():
    content = pickle.dumps({"data": official.planes(IMAGES), "labels": np.ones(2, np.float32)}, 4)
    assert "not integers" in refusal(content)
