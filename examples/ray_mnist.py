"""MNIST with stateless Ray tasks: whatever kills a worker, the driver goes on from the newest checkpoint.

    pip install 'perdure[demo]'
    python examples/ray_mnist.py        # writes to ./ray_ckpts; `kill -9` the printed pids whenever you like

The whole of it, killed on purpose and compared with an undisturbed run, is `perdure demo`.
"""

import os
import shutil
import tempfile
import time

import ray

from perdure import AdaptiveCheckpointController, CheckpointStore
from perdure.demo import data, model

EPOCHS, SEED = 4, 0


@ray.remote(max_retries=0)
def train_epoch_task(state, digits, epoch):
    print(f"epoch {epoch} is trained by process {os.getpid()}", flush=True)
    model.warm_up()
    started = time.time()
    state = model.train_epoch(state, digits, epoch, SEED)
    return state, time.time() - started  # without starting this process


def main():
    folder = tempfile.mkdtemp(prefix="pd-ray-", dir="/tmp")
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        logging_level="ERROR",
        _node_ip_address="127.0.0.1",
        _temp_dir=folder,
    )
    try:
        train()
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def train():
    controller = AdaptiveCheckpointController(budget_checkpoints=EPOCHS)
    store = CheckpointStore()
    digits = data.load(say=print)
    print(f"data: {digits.source}")
    everything = ray.put(digits)
    first = model.initial(SEED)
    state = store.load("mnist") if store.exists("mnist") else first  # the driver may be killed as well
    runtimes = {}

    while (epoch := state["epoch"] + 1) < EPOCHS:
        try:
            state, elapsed = ray.get(train_epoch_task.remote(state, everything, epoch))
        except ray.exceptions.WorkerCrashedError:
            restoring = time.time()
            state = store.load("mnist") if store.exists("mnist") else first
            controller.adjust_policy(
                recovery_time_saved=sum(runtimes.get(done, 0.0) for done in range(state["epoch"] + 1)),
                checkpoint_overhead=time.time() - restoring,
            )
            print(f"the worker of epoch {epoch} died; on from epoch {state['epoch'] + 1}")
            continue
        runtimes[epoch] = elapsed
        controller.observe_task(f"train_epoch_{epoch}", elapsed)
        if controller.should_checkpoint(f"train_epoch_{epoch}", elapsed):
            store.save("mnist", state, step=epoch)
        print(f"epoch {epoch}: loss {state['loss']:.4f}, accuracy {state['accuracy']:.2f}%, {elapsed:.1f} s")

    controller.save_metadata()
    controller.summarize()
    print(f"accuracy on held-out digits: {model.evaluate(state['model_state_dict'], digits):.2%}")
    print("digest", model.digest(state["model_state_dict"]))


if __name__ == "__main__":
    main()
