"""Engines as `concurrent.futures.Executor`, for the option ``executor`` of the methods for folders.

The option takes any `Executor`: those of `concurrent.futures`, `mpi4py.futures.MPIPoolExecutor`, loky's, and Dask's
``client.get_executor()``. An engine that has none becomes one by a subclass of `EngineExecutor` with one method.
`RayExecutor` is such a class.
"""

from gllm_storage.executors.engine import EngineExecutor
from gllm_storage.executors.on_ray import RayExecutor

__all__ = ["EngineExecutor", "RayExecutor"]
