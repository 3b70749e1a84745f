"""A Ray of our own for the tests that need one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """Ray on this machine only; never a cluster that happens to be there."""
    ray = pytest.importorskip("ray", reason="install it with: pip install 'perdure[ray]'")
    with tempfile.TemporaryDirectory(prefix="pd-ray-") as folder:
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
        )
        yield
        ray.shutdown()
