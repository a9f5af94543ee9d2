"""Training steps of a tiny GPT, and a sort, for Oclgrind: `oclgrind --data-races python tests/oclgrind_step.py`.

Oclgrind simulates a device and reports invalid accesses, races and uninitialised reads on its output; `.ci/run`
searches that. Sizes are small and odd, so that every tile has an edge. Both kinds of kernels run: those that depend on
structure alone (the first step, without jit) and those specialised on sizes (under jit, traced and replayed).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

# Only the installed package will do: this folder's parent holds the front door alone.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent.parent]

from clgrad import Device, Tensor, jit, nn  # noqa: E402
from clgrad.models import GPT, GPTConfig  # noqa: E402


def main() -> None:
    print(Device["CL"].describe().description)
    Device.DEFAULT = "CL"
    Tensor.manual_seed(1)
    config = GPTConfig(n_layer=1, n_head=2, n_embd=18, block_size=7, vocab_size=11, dropout=0.1, bias=True)
    model = GPT(config)
    optimizer = nn.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)

    def step(x, y):
        optimizer.zero_grad()
        _, loss = model(x, y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (3, 8)).astype(np.int32)
    x, y = Tensor(tokens[:, :-1]), Tensor(tokens[:, 1:])
    losses = [step(x, y).item()]
    replayed = jit(step)
    losses += [replayed(x, y).item() for _ in range(2)]
    model.eval()  # no dropout: attention is one kernel
    losses.append(step(x, y).item())
    assert np.isfinite(losses).all(), losses
    scores = np.random.default_rng(1).integers(-9, 9, (3, 70)).astype(np.float32)
    for order in (Tensor(scores).argsort(), jit(Tensor.argsort)(Tensor(scores))):
        np.testing.assert_array_equal(order.numpy(), np.argsort(scores, -1, kind="stable"))
    print("oclgrind_step: done", losses)


if __name__ == "__main__":
    main()
