"""Values that leave and come in as memory: DLPack with NumPy and PyTorch, arrays, memoryviews, copies, pickles."""

from __future__ import annotations

import copy
import pickle

import ml_dtypes
import numpy as np
import pytest
import torch

from clgrad import Tensor, jit, nn

DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
DTYPES += ("float16", "bfloat16", "float32", "float64")
LAYOUTS = {
    "plain": lambda x: x,
    "permuted": lambda x: x.permute(1, 0),
    "part": lambda x: x[1:, ::2],
    "expanded": lambda x: x[:1].expand(4, 6),
    "computed": lambda x: x + x,
}


def source(dtype: str, device: str) -> Tensor:
    return Tensor(np.arange(24).reshape(4, 6) % 2, device=device).cast(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_goes_to_torch_and_back_unchanged(device, dtype):
    x = source(dtype, device)
    theirs = torch.from_dlpack(x)
    assert str(theirs.dtype) == f"torch.{dtype}" and theirs.tolist() == x.tolist()
    for back in (Tensor.from_dlpack(theirs, device=device), Tensor(theirs, device=device)):
        assert back.device == device and back.dtype == dtype and back.tolist() == x.tolist()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_goes_to_numpy_and_torch(device, layout):
    x = LAYOUTS[layout](source("float32", device))
    np.testing.assert_array_equal(np.from_dlpack(x), x.numpy())
    np.testing.assert_array_equal(torch.from_dlpack(x).numpy(), x.numpy())
    np.testing.assert_array_equal(Tensor.from_dlpack(torch.from_dlpack(x).t()).numpy(), x.numpy().T)


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3)])
def test_scalars_constants_and_nothing_go_too(device, shape):
    for x in (Tensor.ones(*shape, device=device), Tensor(np.ones(shape, np.float32), device=device)):
        assert np.from_dlpack(x).shape == tuple(torch.from_dlpack(x).shape) == x.data().shape == shape
        assert np.from_dlpack(x).tolist() == np.ones(shape).tolist()


def test_numpys_memory_is_shared_and_read_only_and_a_devices_is_copied(device):
    x = source("float32", device).realize()
    one, other = np.from_dlpack(x), np.from_dlpack(x)
    assert np.shares_memory(one, other) == (device == "NUMPY")
    assert x.__dlpack_device__() == (1, 0)
    if device == "NUMPY":
        with pytest.raises(ValueError, match="read-only"):
            one[0] = 7
        assert np.shares_memory(np.from_dlpack(x.permute(1, 0)), one), "a view is a view"
        assert np.shares_memory(np.asarray(x, copy=False), one)
    else:
        with pytest.raises(ValueError, match=device):
            np.asarray(x, copy=False)
        with pytest.raises(BufferError, match=device):
            x.__dlpack__(max_version=(1, 0), copy=False)
    fresh = np.from_dlpack(x, copy=True)
    fresh[0] = 7
    assert x.tolist() == one.tolist()


def test_what_is_flipped_goes_as_a_copy_since_pytorch_ends_the_process_at_a_negative_stride(device):
    x = source("float32", device).realize().flip(0)
    assert min(np.from_dlpack(x).strides) > 0
    np.testing.assert_array_equal(torch.from_dlpack(x).numpy(), x.numpy())
    with pytest.raises(BufferError, match=device):
        x.__dlpack__(max_version=(1, 0), copy=False)


def test_a_reader_that_knows_no_read_only_gets_a_copy(device):
    x = Tensor([1.0, 2.0], device=device)
    capsule = x.__dlpack__()
    theirs = torch.utils.dlpack.from_dlpack(capsule)
    theirs[0] = 7
    assert x.tolist() == [1.0, 2.0] and theirs.tolist() == [7.0, 2.0]
    with pytest.raises(BufferError, match="without a copy"):
        x.__dlpack__(copy=False)
    with pytest.raises(BufferError, match="not to device"):
        x.__dlpack__(dl_device=(2, 0))


def test_what_is_shared_stays_what_it_was(device):
    """Assignment, optimisers and replays put their results elsewhere while an array sees the memory."""
    p = Tensor(np.arange(8, dtype=np.float32), device=device, requires_grad=True)
    state = Tensor(np.zeros(8, np.float32), device=device)
    optimizer = nn.optim.SGD([p], lr=0.5, momentum=0.9)

    @jit
    def step():
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        optimizer.step()
        state.assign(state + 1)
        return p * 2

    seen = []
    for _ in range(5):
        result = step()
        for tensor in (p, state, p.grad, result):
            seen.append((np.from_dlpack(tensor.detach()), tensor.numpy()))
    state.assign(np.full(8, 9, np.float32))
    p.assign(p * 0)
    del result
    step()
    for shared, then in seen:
        np.testing.assert_array_equal(shared, then)
    assert state.tolist() == [10.0] * 8


def test_shared_memory_outlives_the_tensor(device):
    shared = [np.from_dlpack(Tensor([1.0, 2.0], device=device) + i) for i in range(20)]
    assert [a.tolist() for a in shared] == [[1.0 + i, 2.0 + i] for i in range(20)]


def test_what_comes_in_is_a_copy(device):
    given = torch.zeros(3)
    for read in (Tensor.from_dlpack, Tensor):
        x, then = read(given, device=device), given.tolist()
        given += 1
        assert x.tolist() == then


def test_other_sources_of_numbers(device):
    class Old:
        """A library that gives arrays in the way before DLPack."""

        def __array__(self, dtype=None, copy=None):
            return np.array([1, 2], np.int16)

    for data, want, dtype in (
        (b"ab", [97, 98], "uint8"),
        (bytearray(b"ab"), [97, 98], "uint8"),
        (memoryview(np.arange(4, dtype=np.int16).reshape(2, 2)), [[0, 1], [2, 3]], "int16"),
        (Old(), [1, 2], "int16"),
        (np.float16(0.5), 0.5, "float16"),
        (np.array([1.5], ml_dtypes.bfloat16), [1.5], "bfloat16"),
        (np.array([1, 2], ">i4"), [1, 2], "int32"),
    ):
        x = Tensor(data, device=device)
        assert (x.tolist(), x.dtype.name) == (want, dtype)
    with pytest.raises(TypeError, match="does not speak DLPack"):
        Tensor.from_dlpack([1, 2])


def test_arrays_of_another_dtype(device):
    x = Tensor([1.5, -2.5], device=device)
    assert np.asarray(x, np.int32).dtype == np.int32 and np.asarray(x, np.int32).tolist() == [1, -2]
    assert np.array(x).tolist() == [1.5, -2.5] and np.exp(x).shape == (2,)
    writable = np.asarray(x)
    writable[0] = 0
    assert x.tolist() == [1.5, -2.5]
    with pytest.raises(ValueError, match="float64 without a copy"):
        np.asarray(x, np.float64, copy=False)


@pytest.mark.parametrize("dtype", DTYPES)
def test_data_is_a_memoryview_of_shape_and_dtype(device, dtype):
    x = source(dtype, device)
    assert (x.nbytes(), x.element_size(), x.numel()) == (24 * x.dtype.itemsize, x.dtype.itemsize, 24)
    if dtype == "bfloat16":
        with pytest.raises(TypeError, match="bfloat16"):
            x.data()
        return
    view = x.data()
    assert isinstance(view, memoryview) and view.shape == (4, 6) and view.nbytes == x.nbytes()
    np.testing.assert_array_equal(np.asarray(view), x.numpy())
    assert np.asarray(view).dtype == x.dtype


def test_copies_and_pickles_have_a_life_of_their_own(device):
    p = Tensor([1.0, 2.0], device=device, requires_grad=True)
    (p * p).sum().backward()
    for made in (copy.deepcopy(p), copy.copy(p), pickle.loads(pickle.dumps(p))):
        assert made.requires_grad and made.device == device and made.tolist() == [1.0, 2.0] and made.grad is None
        made.assign(made * 0)
        assert p.tolist() == [1.0, 2.0]
    layer = nn.Linear(2, 3, device=device)
    twin = copy.deepcopy(layer)
    twin.weight.assign(twin.weight * 0)
    assert np.any(layer.weight.numpy()) and not np.any(twin.weight.numpy())


def test_nothing_leaves_while_jit_traces(device):
    for leave in (np.from_dlpack, np.asarray, lambda x: x.data(), lambda x: np.asarray(x, copy=False), pickle.dumps):
        with pytest.raises(RuntimeError, match="while jit traces"):
            jit(leave)(Tensor([1.0], device=device))
