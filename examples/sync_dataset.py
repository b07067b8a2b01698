"""Keep a dataset in a store: check the plan, sync, delete removed files, and fetch one part of it.

python examples/sync_dataset.py                              # a small dataset, in a folder of its own
python examples/sync_dataset.py DATA s3://bucket/data        # your own data and store: shows the plan
python examples/sync_dataset.py DATA s3://bucket/data --run  # and runs it
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from gllm_storage import StorageError, storage_client_from_url
from gllm_storage.folders import Plan

LEFT_OUT = ["*.tmp", ".git/", "__pycache__/"]
"""Files that are not part of a dataset, as rclone's filters name them."""


def make_data(folder: Path) -> None:
    """A small dataset of two parts, with a file that an unfinished download left."""
    for part, count in (("train", 8), ("test", 2)):
        (folder / part).mkdir(parents=True)
        for number in range(count):
            (folder / part / f"{number:04}.txt").write_text(f"{part} sample {number}\n" * 20)
    (folder / "train" / "0008.txt.tmp").write_text("half a sam")


def sync(data: Path, url: str, *, run: bool) -> None:
    """Make the store equal to the folder: upload files that differ, then delete objects that the folder does not have.

    The plan is a file, so a colleague can read it, and exactly that plan runs later. A file that changes after the plan was
    made is a failure, and is not transferred. More than 1000 deletions are refused: that would be the wrong folder.
    """
    client = storage_client_from_url(url)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plan.jsonl"
        client.sync_dir(data, url, delete=True, max_delete=1000, exclude=LEFT_OUT, dry_run=True).plan.save(file)
        plan = Plan.load(file)
        print(f"plan        {plan}")
        if run:
            print(f"synced      {client.apply_plan(plan)}")


def show() -> None:
    """A first run, a run after changes, a run without changes, and the download of one part."""
    with tempfile.TemporaryDirectory(prefix="gllm-storage-dataset-") as name:
        folder = Path(name)
        data, url = folder / "data", f"file://{folder}/store"
        make_data(data)
        sync(data, url, run=True)

        (data / "train" / "0000.txt").write_text("a better sample\n")
        (data / "train" / "0001.txt").unlink()
        (data / "test" / "0000.txt").touch()  # a file of which only the time is new is not sent
        sync(data, url, run=True)
        sync(data, url, run=True)

        client = storage_client_from_url(url)
        print(f"downloaded  {client.download_dir('', folder / 'copy', include=['/test/**'])}")
        print(f"compared    {client.check_dir(data / 'test', f'{url}/test')}")


def main() -> None:
    """Sync the data of the caller, or a small dataset."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("url", nargs="?")
    parser.add_argument("--run", action="store_true", help="run the plan, instead of showing it only")
    arguments = parser.parse_args()
    try:
        if arguments.data is None:
            show()
        elif arguments.url is None:
            parser.error("name the URL of the store as well")
        else:
            sync(arguments.data, arguments.url, run=arguments.run)
    except (StorageError, ValueError, ImportError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
