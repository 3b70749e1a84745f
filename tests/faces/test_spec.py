"""The code of the documents that users were promised runs, with only its import lines changed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import perdure

SPEC = Path(__file__).parents[3] / "shared" / "spec" / "1-adaptive-checkpoint-controller-for-ray.md"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SPEC.exists(), reason="the specification lies beside the checkout, in shared/spec"),
]


def snippet(heading: str, number: int = 0) -> str:
    """The n-th Python block below a heading, its imports pointed at perdure."""
    text = SPEC.read_text()
    section = text[text.index(f"### {heading}\n") :]
    code = re.findall(r"```python\n(.*?)```", section, re.DOTALL)[number]
    code = code.replace("from adaptive_controller import", "from perdure import")
    return str(code.replace("from checkpoint_store import", "from perdure import"))


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    return {"your_task_function": lambda: {"weights": [1.0, 2.0]}}


def run(code: str, names: dict[str, Any]) -> None:
    exec(compile(code, "spec", "exec"), names)


def test_basic_integration_and_end_of_pipeline(names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    run(snippet("Basic Integration"), names)
    assert names["should_ckpt"] is True
    assert names["store"].load("task_name_ckpt") == {"weights": [1.0, 2.0]}
    run(snippet("End of Pipeline"), names)
    assert "Budget used: 1/3" in capsys.readouterr().out
    assert Path("ray_ckpts/adaptive_decisions.json").exists()


def test_recovery_pattern(names: dict[str, Any], local_ray: None) -> None:
    import ray

    run(snippet("Basic Integration"), names)

    @ray.remote(max_retries=0)
    def task() -> None:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)

    names |= {"ray": ray, "task": task}
    with pytest.raises(ray.exceptions.WorkerCrashedError):
        run(snippet("Recovery Pattern"), names)
    names["store"].save("task_ckpt", {"epoch": 3})
    run(snippet("Recovery Pattern"), names)
    assert names["result"] == {"epoch": 3}
    assert names["controller"].cost_threshold == pytest.approx(0.35 - 0.1 * 2.2 / 3.2)


def test_custom_recovery_metrics(names: dict[str, Any]) -> None:
    run(snippet("Basic Integration"), names)
    names["store"].save("checkpoint", [1, 2])
    names["sum_of_previous_task_runtimes"] = 14.0
    run(snippet("Custom Recovery Metrics"), names)
    assert names["result"] == [1, 2]
    assert names["controller"].cost_threshold < 0.35


def test_multiple_pipeline_runs(names: dict[str, Any]) -> None:
    run(snippet("Basic Integration"), names)
    names["controller"].adjust_policy(14.0, 1.0)
    run(snippet("Multiple Pipeline Runs"), names)
    assert names["controller"].cost_threshold == pytest.approx(0.35 - 0.1 * 13 / 14)


def test_own_pytorch_model(names: dict[str, Any], local_ray: None) -> None:
    import io

    import ray
    import torch

    class YourCustomModel(torch.nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 2)

    model = YourCustomModel()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    buffer = io.BytesIO()
    torch.save({"model_state_dict": model.state_dict(), "optimizer_state_dict": optimizer.state_dict()}, buffer)
    names |= {
        "ray": ray, "torch": torch, "io": io, "optim": torch.optim, "YourCustomModel": YourCustomModel,
        "train_loader": [], "loss": 0.1, "accuracy": 97.0,
    }  # fmt: skip
    # A dict display cannot end in an ellipsis: it stands there for "and so on".
    run(snippet("Using with Your Own PyTorch Model").replace(", ...}", "}"), names)
    result = ray.get(names["train_epoch_task"].remote(buffer.getvalue(), 0))
    store = perdure.CheckpointStore(store_dir="./ray_ckpts")
    store.save("train_epoch_0_ckpt", result)
    again = torch.load(io.BytesIO(store.load("train_epoch_0_ckpt")["model_bytes"]))
    assert again["epoch"] == 0
    assert torch.equal(again["model_state_dict"]["weight"], model.weight)
