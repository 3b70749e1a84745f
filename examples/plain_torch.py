"""A training loop in plain PyTorch that survives `kill -9`.

    pip install 'perdure[torch]'
    python examples/plain_torch.py      # kill it with `kill -9` whenever you like, and start it again

It goes on in the middle of the epoch, with the same batch, and ends with the same digest as if it had never
been killed. The five lines that perdure adds or changes are marked; delete ./perdure-store to begin anew.
"""

import hashlib

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import perdure  # perdure: added

torch.manual_seed(0)
torch.set_num_threads(1)
points = torch.rand(20_000, 2) * 4 - 2
inside = (points.norm(dim=1) < 1.3).long()
loader = DataLoader(TensorDataset(points, inside), batch_size=64, shuffle=True)

model = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 2))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

with perdure.Run("plain-torch", {"model": model, "optimizer": optimizer}) as run:  # perdure: added
    for epoch in run.range(8):  # perdure: was range(8)
        for x, y in run.each(loader):  # perdure: was loader
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            run.step(loss=loss)  # perdure: added
        print(f"epoch {epoch} is done", flush=True)

weights = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
print("digest", hashlib.sha256(weights).hexdigest(), flush=True)
