"""Archives of PyTorch: what `torch.save` writes is read, what it never writes is refused."""

import zipfile

import pytest
import torch

from score_jax import interop_read
from score_jax.types import UserError

STATE = {"a.weight": torch.arange(4.0), "b.weight": torch.ones(2, 3)}


def saved(path, content=STATE):
    torch.save(content, path)
    return path


@pytest.mark.parametrize("name", ["code.pt", "constants.pkl.pt"])
def test_a_file_may_have_any_name(name, tmp_path):
    path = saved(tmp_path / name)
    assert path.stem in zipfile.ZipFile(path).namelist()[0]
    assert list(interop_read.read_state_dict(path)) == list(STATE)


def test_averaged_models_are_read(tmp_path):
    averaged = torch.optim.swa_utils.AveragedModel(torch.nn.BatchNorm1d(2))
    state = interop_read.read(saved(tmp_path / "swa.pt", averaged.state_dict()))
    assert list(state.state) == ["weight", "bias", "running_mean", "running_var"]
    assert state.prefix == "module."


def test_a_compressed_archive_is_refused(tmp_path):
    with (
        zipfile.ZipFile(saved(tmp_path / "a.pt", {"a.weight": torch.zeros(1 << 16)})) as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for member in plain.namelist():
            bomb.writestr(member, plain.read(member))
    assert (tmp_path / "bomb.pt").stat().st_size < 1 << 12
    with pytest.raises(UserError, match="bomb.pt unpacks to more than it holds"):
        interop_read.read(tmp_path / "bomb.pt")


def test_entries_that_overlap_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a/data/0", bytes(1 << 12))
        archive.filelist.append(archive.filelist[0])
    with pytest.raises(UserError, match="a.pt unpacks to more than it holds"):
        interop_read.read(tmp_path / "a.pt")


def test_a_damaged_byte_of_the_table_of_contents_is_one_line(tmp_path):
    path = saved(tmp_path / "a.pt")
    content = path.read_bytes()
    start = content.index(b"PK\x01\x02")
    messages = []
    for position in range(start, len(content), 3):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        try:
            interop_read.read(path)
        except UserError as error:
            messages.append(str(error))
    assert any("is cut short or damaged (" in message for message in messages)
    assert all("\n" not in message for message in messages)
