"""A pipeline of stateless Ray tasks on fake data, one of whose workers is killed by SIGKILL for real.

    pip install 'perdure[ray]'
    python examples/ray_pipeline.py     # writes to ./ray_ckpts

Load, transform, three training epochs. The controller decides after each task whether its result is worth a
checkpoint; the worker of the second epoch is killed in the middle, and a new task goes on from the newest one.
"""

import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

import numpy as np
import ray

from perdure import AdaptiveCheckpointController, CheckpointStore

EPOCHS = 3


@ray.remote(max_retries=0)
def load_data(records):
    time.sleep(0.2)
    return {"records": np.random.default_rng(0).normal(size=records)}


@ray.remote(max_retries=0)
def transform(data, k):
    time.sleep(0.4)
    return {"features": data["records"] * k}


@ray.remote(max_retries=0)
def train_epoch(state, features, epoch, pid_file):
    Path(pid_file).write_text(str(os.getpid()))
    weights = state["weights"]
    for _ in range(10):
        time.sleep(0.05)
        weights = weights + 0.01 * features["features"].mean()
    return {"epoch": epoch, "weights": weights}


def main():
    folder = tempfile.mkdtemp(prefix="pd-ray-", dir="/tmp")
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _node_ip_address="127.0.0.1",
        _temp_dir=folder,
    )
    try:
        pipeline(Path(folder) / "pid")
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def pipeline(pid_file):
    controller = AdaptiveCheckpointController(checkpoint_dir="./ray_ckpts", budget_checkpoints=4)
    store = CheckpointStore(store_dir="./ray_ckpts")
    spent = {}

    def finished(task, started, result, key):
        """What the specification calls basic integration."""
        spent[task] = time.time() - started
        controller.observe_task(task, spent[task])
        save = controller.should_checkpoint(task, spent[task])
        print(f"[{task}] runtime={spent[task]:.3f}s | checkpoint={save}", flush=True)
        if save:
            store.save(key, ray.get(result))
        return result

    started = time.time()
    data = load_data.remote(100)
    ray.wait([data])
    finished("load", started, data, "load_ckpt")

    started = time.time()
    features = transform.remote(data, 2.5)
    ray.wait([features])
    finished("transform", started, features, "transform_ckpt")

    first = {"epoch": -1, "weights": np.zeros(4)}
    state, epoch, killed = first, 0, False
    store.delete("train_ckpt")  # what an earlier run of this example left
    while epoch < EPOCHS:
        started = time.time()
        pid_file.unlink(missing_ok=True)
        trained = train_epoch.remote(state, features, epoch, str(pid_file))
        if epoch == 1 and not killed:
            kill_in_the_middle(pid_file)
            killed = True
        try:
            ray.get(trained)
        except ray.exceptions.WorkerCrashedError as error:
            print(f"[FAILURE] epoch {epoch}: {type(error).__name__}", flush=True)
            restoring = time.time()
            state = store.load("train_ckpt") if store.exists("train_ckpt") else first
            saved = sum(spent[f"train_epoch_{done}"] for done in range(state["epoch"] + 1))
            controller.adjust_policy(recovery_time_saved=saved, checkpoint_overhead=time.time() - restoring)
            epoch = state["epoch"] + 1
            print(f"[RECOVERY] a new task goes on with epoch {epoch}", flush=True)
            continue
        state = finished(f"train_epoch_{epoch}", started, trained, "train_ckpt")
        epoch += 1

    controller.save_metadata()
    controller.summarize()
    final = ray.get(state)
    print(f"all {final['epoch'] + 1} epochs done, none skipped: weights {final['weights']}")


def kill_in_the_middle(pid_file):
    while not (pid_file.exists() and pid_file.read_text()):
        time.sleep(0.01)
    time.sleep(0.2)
    pid = int(pid_file.read_text())
    os.kill(pid, signal.SIGKILL)
    print(f"[KILL] SIGKILL to the worker {pid}", flush=True)


if __name__ == "__main__":
    main()
