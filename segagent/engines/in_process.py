"""Rollouts by this process itself."""

from __future__ import annotations

from pathlib import Path

from segagent.engines.work import RolloutWork
from segagent.run import RunSummary, run


class InProcess:
    """`RolloutEngine` in this process and on its device."""

    def roll_out(self, work: RolloutWork, out: Path, shard: str = "0/1", resume: bool = True) -> RunSummary:
        dataset, (policy, environment) = work.dataset, work.build()
        return run(
            dataset,
            policy=policy,
            environment=environment,
            out=out,
            init=work.init,
            batch_size=work.batch_size,
            shard=shard,
            resume=resume,
            on_error=work.on_error,
            record_seconds=work.record_seconds,
            title=work.title,
        )
