"""Segment like a human annotator: look at the picture with the mask painted on it, say where to click, look again.

::

    data -> Sample --environment.start--> State --policy.propose--> Action --environment.step--> State -> ...
                                            |                                  (segmenter.predict)
                                            '--dialogue.observe--> what a model sees

    rollout: the loop over batches -> Trajectory --data.trajectories--> JSONL
                                                 --data.predictions--> predictions JSON --metrics--> figures
                                                 --report--> pictures

Imports go one way, in the order of README's map; this file imports nothing until one of its names is asked for.
"""

from importlib import import_module as _import_module

__all__ = ["Annotator", "annotate", "returned_mask"]


def __getattr__(name: str) -> object:
    """`annotate` and its like, which bring the networks with them, so that `import segagent` stays light."""
    if name in __all__:
        return getattr(_import_module("segagent.annotation"), name)
    raise AttributeError(f"module 'segagent' has no attribute {name!r}")
