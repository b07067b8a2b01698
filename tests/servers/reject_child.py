"""The program of the `reject` server. The argument is the port."""

import signal
import sys

from snailmail.s3 import ObjectStore, StoreBehavior

ObjectStore(port=int(sys.argv[1]), behavior=StoreBehavior(conditional_writes="reject")).start()
signal.pause()
