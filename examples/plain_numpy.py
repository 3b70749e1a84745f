"""Gradient descent in plain NumPy that survives `kill -9`.

    pip install perdure
    python examples/plain_numpy.py      # kill it with `kill -9` whenever you like, and start it again

The arrays of the state are filled in place when it goes on, the generator too. The four lines that perdure
adds or changes are marked; delete ./perdure-store to begin anew.
"""

import hashlib

import numpy as np

import perdure  # perdure: added

rng = np.random.default_rng(0)
inputs = rng.normal(size=(50_000, 20))
truth = rng.normal(size=20)
targets = inputs @ truth + 0.1 * rng.normal(size=50_000)

weights = np.zeros(20)
velocity = np.zeros(20)

with perdure.Run("plain-numpy", {"weights": weights, "velocity": velocity, "rng": rng}) as run:  # perdure: added
    for step in run.range(6_000):  # perdure: was range(6_000)
        batch = rng.integers(0, len(inputs), 512)
        error = inputs[batch] @ weights - targets[batch]
        velocity *= 0.9
        velocity -= 1e-3 * inputs[batch].T @ error / len(batch)
        weights += velocity
        run.step()  # perdure: added
        if step % 500 == 499:
            print(f"step {step}: {np.square(error).mean():.4f}", flush=True)

print("digest", hashlib.sha256(weights.tobytes()).hexdigest(), flush=True)
