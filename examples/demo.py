"""Store a model and its data, exclusively; open both by URL; download; delete.

python examples/demo.py                        # in a folder of its own: no account, no server
python examples/demo.py s3://bucket/prefix     # on your own store
"""

from __future__ import annotations

import secrets
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import safetensors.numpy

from gllm_storage import CloudStorageClient, ObjectExistsError, StorageError, storage_client_from_url


def make_artifacts(folder: Path) -> tuple[Path, Path]:
    """A small model and the log of its training, as real files."""
    weights = {"embed.weight": np.arange(64 * 1024, dtype=np.float32).reshape(64, 1024), "head.bias": np.zeros(64)}
    model = folder / "model.safetensors"
    safetensors.numpy.save_file(weights, model)
    log = folder / "loss.parquet"
    pd.DataFrame({"step": range(1000), "loss": np.geomspace(11.0, 1.7, 1000)}).to_parquet(log)
    return model, log


def show(client: CloudStorageClient, run: str, folder: Path) -> None:
    """The main job, step by step, below a remote folder of its own."""
    model, log = make_artifacts(folder)

    urls = [client.upload_file(each, f"{run}/{each.name}", check_conflict=True) for each in (model, log)]
    for url in urls:
        info = client.info(url)
        print(f"stored      {url}  ({info.size} bytes, {info.checksum or info.etag})")

    try:
        client.upload_file(model, f"{run}/{model.name}", check_conflict=True)
    except ObjectExistsError as conflict:
        print(f"conflict    {conflict}")
    else:
        sys.exit("the store let us overwrite an object in spite of check_conflict=True")

    with fsspec.open(urls[0], **client.storage_options) as file:
        weights = safetensors.numpy.load(file.read())
    print(f"opened      {urls[0]}  as safetensors: {weights['embed.weight'].shape} and {weights['head.bias'].shape}")
    frame = pd.read_parquet(urls[1], storage_options=client.storage_options or None)
    print(f"opened      {urls[1]}  by pandas: {len(frame)} rows, last loss {frame['loss'].iloc[-1]:.2f}")

    copy = client.download_file(f"{run}/{model.name}", folder / "copy" / model.name)
    print(f"downloaded  {copy}  (identical: {copy.read_bytes() == model.read_bytes()})")

    for url in urls:
        client.delete_file(url)
    print(f"deleted     both; left: {[info.url for info in client.list_files(f'{run}/')]}")


def clean_up(client: CloudStorageClient, run: str) -> None:
    """Delete the remaining objects of a failed demo."""
    with suppress(StorageError):
        for info in list(client.list_files(f"{run}/")):
            client.delete_file(info.url)


def main() -> None:
    """Run on the URL of the command line, or in a temporary folder."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gllm-storage-demo-")))
        url = sys.argv[1] if len(sys.argv) > 1 else f"file://{folder}/store"
        try:
            client = storage_client_from_url(url)
            print(f"client      {client}")
            run = f"gllm-storage-demo-{secrets.token_hex(4)}"
            stack.callback(clean_up, client, run)
            show(client, run, folder)
        except (StorageError, ValueError, ImportError) as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main()
