"""Which checkpoints exist: manifests, the commit, leases, retention."""

from perdure.catalog.catalog import Catalog, Found
from perdure.catalog.lease import Lease
from perdure.catalog.manifest import Checkpoint, Manifest, Record
from perdure.catalog.writer import Options, Writer

__all__ = ["Catalog", "Checkpoint", "Found", "Lease", "Manifest", "Options", "Record", "Writer"]
