"""Pieces of a kernel of NUMPY in several threads of Python: the same numbers, all of them, and errors that arrive."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clgrad import Tensor
from clgrad.backends.numpy import attention, blas, render, sharing

ONE_FIXTURE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # one serves all examples


@pytest.fixture
def three(monkeypatch, new_kernels):
    """Threads as if BLAS had three, whatever else runs in this process; and kernels that are worth them."""
    monkeypatch.setattr(sharing, "threads", lambda: 3)
    monkeypatch.setattr(blas, "_FUNCTIONS", (lambda: 3, lambda count: None))
    monkeypatch.setattr(blas, "_STOP", lambda: None)
    for module, name, value in ((render, "SHARED", 1), (render, "BLOCK", 4), (render, "LONG_CALLS", 1)):
        monkeypatch.setattr(module, name, value)
    for name, value in (("SHARED", 1), ("SCORES", 8), ("LEAST_ROWS", 1), ("CAUSAL_ROWS", 2)):
        monkeypatch.setattr(attention, name, value)


def test_every_piece_is_done_once_by_a_thread_with_a_number_of_its_own(three):
    done, together = [], threading.Barrier(2, timeout=60)

    def piece(number: int, thread: int) -> None:
        if number < 2:
            together.wait()  # two threads at least, at the same time
        done.append((number, thread, threading.get_ident()))

    sharing.share([lambda thread, n=n: piece(n, thread) for n in range(40)])
    assert sorted(number for number, *_ in done) == list(range(40))
    names = {(thread, ident) for _, thread, ident in done}
    assert len(names) == len({t for t, _ in names}) == len({i for _, i in names}) >= 2
    assert {t for t, _ in names} <= {0, 1, 2}

    done.clear()
    sharing.share([lambda thread: done.append(thread)] * 5, most=1)
    assert done == [0] * 5


@pytest.mark.parametrize("guilty", [0, 1])
def test_an_error_in_any_thread_is_raised_when_all_have_ended(three, guilty):
    together, running = threading.Barrier(2, timeout=60), []

    def piece(thread: int) -> None:
        running.append(thread)
        together.wait()
        if thread == guilty or guilty and thread:
            raise IndexError(f"piece of {thread}")
        running.remove(thread)

    with pytest.raises(IndexError, match="piece of"):
        sharing.share([piece, piece])
    assert len(running) == 1  # the one that failed; the other has come to its end
    done: list[int] = []
    sharing.share([done.append] * 7)  # and the threads are there for the next kernel
    assert len(done) == 7


@ONE_FIXTURE
@given(st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(1, 4)), st.integers(0, 99))
def test_shared_blocks_compute_what_they_do_alone(three, shape, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((2, *shape)).astype(np.float32)
    row, weight = rng.standard_normal(shape[-1:]).astype(np.float32), rng.standard_normal((shape[-1], 3))
    x, y = Tensor(a, device="NUMPY"), Tensor(b, device="NUMPY")
    exact, other = a.astype(np.float64), b.astype(np.float64)
    softmax = np.exp(exact - exact.max(-1, keepdims=True))
    normed = exact - exact.mean(-1, keepdims=True)
    cases = [
        ((x * row + y).tanh() * y - x, np.tanh(exact * row + other) * other - exact),
        (x.softmax(-1), softmax / softmax.sum(-1, keepdims=True)),
        (x.layernorm(-1), normed / np.sqrt((normed**2).mean(-1, keepdims=True) + 1e-5)),
        ((x @ Tensor(weight.astype(np.float32), device="NUMPY")).sigmoid(), 1 / (1 + np.exp(-(exact @ weight)))),
        ((x * y).exp().sum(0), np.exp(exact * other).sum(0)),
        (x.pad(((1, 0), (0, 0), (0, 2))).exp() * 2, 2 * np.exp(np.pad(exact, ((1, 0), (0, 0), (0, 2))))),
    ]
    Tensor.realize_all([got for got, _ in cases])
    for got, wanted in cases:
        np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-4, atol=1e-5)


@ONE_FIXTURE
@given(st.integers(1, 3), st.integers(2, 9), st.integers(2, 9), st.booleans(), st.integers(0, 99))
def test_shared_heads_are_the_definition_and_so_are_their_gradients(three, heads, queries, keys, causal, seed):
    torch = pytest.importorskip("torch", reason="compares with PyTorch where that is installed")
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal((2, heads, n, 3)).astype(np.float32) for n in (queries, keys, keys)]
    tensors = [Tensor(x, device="NUMPY", requires_grad=True) for x in arrays]
    exact = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in arrays]
    ours = Tensor.scaled_dot_product_attention(*tensors, is_causal=causal)
    theirs = torch.nn.functional.scaled_dot_product_attention(*exact, is_causal=causal)
    np.testing.assert_allclose(ours.numpy(), theirs.detach().numpy(), rtol=1e-4, atol=1e-5)
    (ours * ours).sum().backward()
    (theirs * theirs).sum().backward()
    for got, wanted in zip(tensors, exact, strict=True):
        np.testing.assert_allclose(got.grad.numpy(), wanted.grad.numpy(), rtol=1e-3, atol=1e-4)


def test_an_index_out_of_range_in_a_shared_block_is_one_clear_error(three):
    table = Tensor(np.arange(12.0, dtype=np.float32).reshape(6, 2), device="NUMPY")
    index = np.zeros(40, np.int32)
    index[33] = 6
    with pytest.raises(IndexError, match="index 6 is out of range for 6 rows"):
        (table[Tensor(index, device="NUMPY")].exp() * 2).numpy()
    assert (table.exp() * 0).sum().item() == 0.0


ON_ITS_OWN = """
import json, threading
import numpy as np
from clgrad import Tensor
from clgrad.backends.numpy import blas
rng = np.random.default_rng(0)
a, b = rng.standard_normal((2, 2048, 2048)).astype(np.float32)
before = blas.threads()
x, y = Tensor(a, device="NUMPY"), Tensor(b, device="NUMPY")
errors = []
for _ in range(3):  # products, whose threads spin, and loops that are shared, in turns
    product = (x @ y).numpy()
    loop = ((x * 2 + y).tanh() * x - y).numpy()
    errors.append(float(np.abs(product[:8] - a[:8].astype("f8") @ b).max()))
    errors.append(float(np.abs(loop - (np.tanh(a.astype("f8") * 2 + b) * a - b)).max()))
q = rng.standard_normal((8, 8, 256, 16)).astype(np.float32)
heads = Tensor(q, device="NUMPY")
rows = heads.scaled_dot_product_attention(heads, heads).numpy()
scores = np.exp(q.astype("f8") @ q.swapaxes(-1, -2) / 4)
errors.append(float(np.abs(rows - scores @ q / scores.sum(-1, keepdims=True)).max()))
bits = [rows.tobytes(), loop.tobytes()]
helped = any(thread.name.startswith("clgrad") for thread in threading.enumerate())
waiting = threading.Event()
threading.Thread(target=waiting.wait, daemon=True).start()
from clgrad.backends.numpy import sharing
blas.allowed = 2
alone = sharing.threads()
heads, x = Tensor(q, device="NUMPY"), Tensor(a, device="NUMPY")  # by this thread alone, while another exists
again = heads.scaled_dot_product_attention(heads, heads), (x * 2 + y).tanh() * x - y
same = bits == [t.numpy().tobytes() for t in again]
waiting.set()
print(json.dumps([before, blas.threads(), blas.can_stop(), helped, alone, same, max(errors)]))
"""


def test_a_process_shares_its_loops_and_blas_has_its_threads_back_afterwards():
    run = subprocess.run([sys.executable, "-c", ON_ITS_OWN], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    before, after, can_stop, helped, alone, same, error = json.loads(run.stdout)
    assert before == after and error < 1e-3
    assert helped == (can_stop and before > 1)
    assert alone == 1  # another thread, which may be using BLAS
    assert same
