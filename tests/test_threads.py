"""Threads of Python that compute at the same time, each with its own Tensors or with a jitted function they share."""

import threading

import numpy as np

from clgrad import Tensor, jit


def together(work, threads=4):
    """Run work(0), work(1), ... in a thread each; raise what one of them raised."""
    errors = []

    def guarded(number):
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    running = [threading.Thread(target=guarded, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if errors:
        raise errors[0]


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_threads_do_not_disturb_one_another(device):
    def work(number):
        rng = np.random.default_rng(number)
        for _ in range(10):
            a = rng.standard_normal((200, 300)).astype("f4")
            x = Tensor(a, device=device, requires_grad=True)
            y = x.softmax(-1)
            (y * y).sum().backward()
            p = softmax(a)
            np.testing.assert_allclose(y.numpy(), p, atol=1e-5)
            np.testing.assert_allclose(x.grad.numpy(), 2 * p * (p - (p * p).sum(-1, keepdims=True)), atol=1e-5)

    together(work)


def test_threads_share_a_jitted_function(device):
    w = np.random.default_rng(9).standard_normal((300, 64)).astype("f4")
    weight = Tensor(w, device=device)
    score = jit(lambda x: (x @ weight).softmax(-1))

    def work(number):
        rng = np.random.default_rng(number)
        for _ in range(10):
            a = rng.standard_normal((50, 300)).astype("f4")
            np.testing.assert_allclose(score(Tensor(a, device=device)).numpy(), softmax(a @ w), atol=1e-4)

    together(work)
    assert score.traces == 1


def test_no_grad_and_a_trace_are_of_one_thread(device):
    inside, leave = threading.Event(), threading.Event()
    seen = []

    def traced(x):
        with Tensor.no_grad():
            inside.set()
            assert leave.wait(60)
        return x * 2

    def work(number):
        if number == 0:
            seen.append(jit(traced)(Tensor([1.0, 2.0], device=device)).tolist())
            return
        assert inside.wait(60)
        try:
            x = Tensor([3.0], device=device, requires_grad=True)
            (x * x).sum().backward()
            seen.append(x.grad.tolist())
        finally:
            leave.set()

    together(work, threads=2)
    assert seen == [[6.0], [2.0, 4.0]]
