"""The backend in this process: the engine that a server's workers run, without a server."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gradwire._task import Task
from gradwire._transforms import Functions
from gradwire_core.program import Program

if TYPE_CHECKING:
    from gradwire_core.engine import ExecutableCache, Output


class Embedded(Functions):
    """The functions of gradwire, computed in this process."""

    @cached_property
    def _cache(self) -> ExecutableCache:
        from gradwire._config import EngineConfig
        from gradwire_core.allocator import keep_freed_memory
        from gradwire_core.engine import ExecutableCache
        from gradwire_core.kernels.choice import open_chooser
        from gradwire_core.native.tier import open_tier
        from gradwire_core.plans import open_plans

        config = EngineConfig.from_environ()
        if config.keep_freed_memory:
            keep_freed_memory()
        chooser = open_chooser(config.threads, config.kernels, config.cache_folder)
        tier = open_tier(config.cache_folder, config.code_folder_bytes) if config.native else None
        plans = open_plans(config.cache_folder, config.plan_folder_bytes)
        return ExecutableCache(tier=tier, chooser=chooser, max_peak_bytes=config.max_peak_bytes, plans=plans)

    def _perform(self, task: Task) -> Any:
        executable = self._cache.get(task.program, task.outputs, reproducible=task.reproducible)
        return task.rebuild(executable.run(task.inputs, task.seeds))

    def _explain(self, program: Program, outputs: Sequence[Output], names: Sequence[str], format: str) -> Any:
        from gradwire_core.explain import explain

        return explain(program, outputs, format=format, names=names)


EMBEDDED = Embedded()
evaluate = EMBEDDED.evaluate
grad = EMBEDDED.grad
value_and_grad = EMBEDDED.value_and_grad
jacobian = EMBEDDED.jacobian
hessian = EMBEDDED.hessian
jvp = EMBEDDED.jvp
vjp = EMBEDDED.vjp
hvp = EMBEDDED.hvp
jacobian_det = EMBEDDED.jacobian_det
jacobian_slogdet = EMBEDDED.jacobian_slogdet
jacobian_logvolume = EMBEDDED.jacobian_logvolume
vmap = EMBEDDED.vmap
trace = EMBEDDED.trace
explain = EMBEDDED.explain
