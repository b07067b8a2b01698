"""`RayExecutor`: Ray as an `Executor`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from gllm_storage.executors.engine import EngineExecutor

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

T = TypeVar("T")


class RayExecutor(EngineExecutor):
    """An `Executor` on Ray, which must be installed. ``ray.init`` may have been called before; otherwise Ray calls it.

    Args:
        **options: Options of Ray's tasks, such as ``num_cpus=1`` or ``resources={"disk": 1}``.

    Raises:
        ImportError: If Ray is not installed.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        import ray  # an optional package, which takes 1 s to import

        self._cancel: Callable[[Any], object] = ray.cancel
        self._task: Any = ray.remote(_result_of).options(**options)

    def start(self, call: Callable[[], T]) -> tuple[Future[T], Callable[[], object]]:
        """As `EngineExecutor.start`."""
        reference = self._task.remote(call)
        return reference.future(), partial(self._cancel, reference)


def _result_of(call: Callable[[], T]) -> T:
    return call()
