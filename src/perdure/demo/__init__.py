"""The main job on real input: a training that is killed, goes on, and ends as if it had never been."""

from perdure.demo.entry import run_demo

__all__ = ["run_demo"]
