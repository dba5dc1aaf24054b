"""Segment like a human annotator: look at the picture with the mask painted on it, say where to click, look again.

::

    data -> Sample --environment.start--> State --policy.propose--> Action --environment.step--> State -> ...
                                            |                                  (segmenter.predict)
                                            '--dialogue.observe--> what a model sees

    rollout: the loop over batches -> Trajectory --data.trajectories--> JSONL
                                                 --data.predictions--> predictions JSON --metrics--> figures
                                                 --report--> pictures

Imports go one way, in the order of README's map; this file imports nothing.
"""
