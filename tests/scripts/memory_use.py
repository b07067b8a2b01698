"""Upload and download a large file, and print the growth of the process. The argument is a JSON object.

Keys: provider, config, small, large (local files), target (the path of the downloads).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from gllm_storage import get_storage_client


def peak() -> float:
    """The peak memory of the process, in MiB."""
    # Not getrusage: its ru_maxrss begins with the memory of the parent process.
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def main(job: dict[str, Any]) -> None:
    """Print the growth in MiB after the upload, and after upload and download."""
    client = get_storage_client(job["provider"], job["config"])
    client.upload_file(job["small"], "small")
    client.download_file("small", job["target"])
    idle = peak()
    client.upload_file(job["large"], "large")
    uploaded = peak()
    client.download_file("large", job["target"])
    print(json.dumps({"upload": uploaded - idle, "both": peak() - idle}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
