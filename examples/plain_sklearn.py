"""scikit-learn's partial_fit on its digits, in a script that survives `kill -9`.

    pip install perdure scikit-learn
    python examples/plain_sklearn.py    # kill it with `kill -9` whenever you like, and start it again

A model of scikit-learn can only be pickled: perdure signs it with your own key, and loads nothing that this key
has not signed. The four lines that perdure adds or changes are marked; delete ./perdure-store to begin anew.
"""

import hashlib

import numpy as np
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

import perdure  # perdure: added

images, labels = load_digits(return_X_y=True)
images /= 16
held_out = np.arange(len(labels)) % 5 == 0

np.random.seed(0)
model = MLPClassifier(hidden_layer_sizes=(64,), random_state=0)

with perdure.Run("plain-sklearn", {"model": model}) as run:  # perdure: added
    for epoch in run.range(60):  # perdure: was range(60)
        order = np.random.permutation(np.flatnonzero(~held_out))
        for batch in np.array_split(order, 24):
            model.partial_fit(images[batch], labels[batch], classes=np.arange(10))
        run.step(loss=model.loss_)  # perdure: added
        if epoch % 5 == 4:
            print(f"epoch {epoch}: loss {model.loss_:.4f}", flush=True)

print(f"accuracy {model.score(images[held_out], labels[held_out]):.1%}")
print("digest", hashlib.sha256(b"".join(layer.tobytes() for layer in model.coefs_)).hexdigest(), flush=True)
