"""Train a model, and publish a checkpoint after each epoch. Run again after a kill, it goes on with the newest one.

pip install '.[s3]' numpy safetensors      # the extra of the store: s3, gcs or azure; a folder needs none
python examples/publish_and_fetch/train.py s3://bucket/models          # or gs://, az://, file:///folder
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import safetensors.numpy

from gllm_storage import CloudStorageClient, storage_client_from_url, versions

MODEL = "line"
EPOCHS = 5


def train(client: CloudStorageClient, folder: Path) -> None:
    """Fit y = 3 x + 1, and publish a version for each epoch."""
    weights, done = newest(client, folder)
    x = np.linspace(-1, 1, 100)
    for epoch in range(done + 1, EPOCHS + 1):
        for _ in range(20):
            error = weights["slope"] * x + weights["offset"] - (3 * x + 1)
            weights["slope"] -= 0.1 * 2 * np.mean(error * x)
            weights["offset"] -= 0.1 * 2 * np.mean(error)
        loss = float(np.mean(error**2))
        checkpoint = folder / "checkpoint"
        checkpoint.mkdir(exist_ok=True)
        safetensors.numpy.save_file(weights, checkpoint / "model.safetensors")
        (checkpoint / "config.json").write_text(json.dumps({"epoch": epoch}), encoding="utf-8")
        # A reader never sees a part of it. After a kill, the files that are stored are not sent again.
        version = versions.publish(
            client, checkpoint, MODEL, version=f"epoch-{epoch}", metadata={"epoch": epoch, "loss": loss}
        )
        versions.set_alias(client, MODEL, "latest", version.name)
        print(f"published   {version.name}  loss {loss:.2g}  {version.digest}", flush=True)
    plan = versions.retain(client, MODEL, keep_last=3, dry_run=False)
    print(f"deleted     {[each.name for each in plan.deleted]}, kept {list(plan.kept)}")
    versions.collect_garbage(client, MODEL)  # the files, after a grace period of one day


def newest(client: CloudStorageClient, folder: Path) -> tuple[dict[str, np.ndarray], int]:
    """The weights of the newest checkpoint and its epoch; new ones if there is none."""
    version = max(versions.list_versions(client, MODEL), key=lambda each: each.metadata["epoch"], default=None)
    if version is None:
        return {"slope": np.zeros(()), "offset": np.zeros(())}, 0
    versions.fetch(client, MODEL, version.name, folder / "newest")
    versions.set_alias(client, MODEL, "latest", version.name)  # a kill may have come between publish and set_alias
    print(f"resuming    {version.name}")
    return safetensors.numpy.load_file(folder / "newest" / "model.safetensors"), version.metadata["epoch"]


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit("usage: train.py URL, such as file:///folder")
    with tempfile.TemporaryDirectory() as scratch:
        train(storage_client_from_url(sys.argv[1]), Path(scratch))
