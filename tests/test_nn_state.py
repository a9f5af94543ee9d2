"""safetensors files: what was saved comes back, damage is noticed, and a failed save leaves the old file."""

import builtins
import os
import sys

import numpy as np
import pytest
import safetensors.numpy

from clgrad import Tensor, nn

TENSORS = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "step": np.array(7, np.int64),
    "empty": np.zeros((0, 3), np.float16),
    "mask": np.array([True, False]),
}


def save(path, **metadata):
    nn.state.safe_save({name: Tensor(array) for name, array in TENSORS.items()}, path, metadata)


def test_what_is_saved_is_loaded(tmp_path):
    save(tmp_path / "a.safetensors", iteration="12")
    loaded = nn.state.safe_load(tmp_path / "a.safetensors")
    assert loaded.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        assert loaded[name].dtype == array.dtype and loaded[name].shape == array.shape
        np.testing.assert_array_equal(loaded[name].numpy(), array)
    assert nn.state.safe_load_metadata(tmp_path / "a.safetensors") == {"iteration": "12"}
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_other_programs_read_ours_and_we_theirs(tmp_path):
    save(tmp_path / "ours.safetensors")
    np.testing.assert_array_equal(
        safetensors.numpy.load_file(tmp_path / "ours.safetensors")["weight"], TENSORS["weight"]
    )
    safetensors.numpy.save_file(TENSORS, tmp_path / "theirs.safetensors")
    np.testing.assert_array_equal(nn.state.safe_load(tmp_path / "theirs.safetensors")["step"].numpy(), TENSORS["step"])


def test_every_truncation_raises_value_error(tmp_path):
    path = tmp_path / "a.safetensors"
    save(path)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="a.safetensors"):
            nn.state.safe_load(path)


def test_every_flipped_byte_raises_value_error_or_changes_nothing(tmp_path):
    path = tmp_path / "a.safetensors"
    save(path, iteration="12")
    content = path.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        try:
            loaded, metadata = nn.state.safe_load(path), nn.state.safe_load_metadata(path)
        except ValueError as error:
            assert "a.safetensors" in str(error)
            continue
        assert metadata["iteration"] == "12"  # only the checksum's own name was hit
        for name, array in TENSORS.items():
            np.testing.assert_array_equal(loaded[name].numpy(), array)


def test_a_missing_file_and_a_missing_folder_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        nn.state.safe_load(tmp_path / "nowhere.safetensors")
    with pytest.raises(OSError, match="nowhere"):
        save(tmp_path / "nowhere" / "a.safetensors")


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_save_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, failing):
    path = tmp_path / "a.safetensors"
    save(path, iteration="1")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, full)
    with pytest.raises(OSError, match="No space left"):
        save(path, iteration="2")
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["a.safetensors"]
    assert nn.state.safe_load_metadata(path) == {"iteration": "1"}


def test_without_safetensors_the_error_says_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("safetensors"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.startswith("safetensors")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install \"clgrad\[demo\]\""):
        save(tmp_path / "a.safetensors")


def test_a_dtype_that_numpy_lacks_is_refused_clearly(tmp_path):
    import safetensors.torch
    import torch

    safetensors.torch.save_file({"w": torch.zeros(2, dtype=torch.float8_e5m2)}, tmp_path / "b.safetensors")
    with pytest.raises((ValueError, TypeError), match="b.safetensors|float8"):
        nn.state.safe_load(tmp_path / "b.safetensors")


def test_bfloat16_is_read_and_written_as_pytorch_does(tmp_path):
    import safetensors.torch
    import torch

    values = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    theirs, ours = tmp_path / "theirs.safetensors", tmp_path / "ours.safetensors"
    safetensors.torch.save_file({"w": values, "scalar": values[0, 0].clone()}, theirs)
    loaded = nn.state.safe_load(theirs)
    assert loaded["w"].dtype.name == "bfloat16" and loaded["scalar"].shape == ()
    nn.state.safe_save(loaded, ours)
    again = safetensors.torch.load_file(ours)
    assert torch.equal(again["w"], values) and torch.equal(again["scalar"], values[0, 0])
