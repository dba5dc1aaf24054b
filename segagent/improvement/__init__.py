"""Rounds of policy improvement: rollouts of the model so far -> what of them is learnt -> S_0 trained anew -> the next.

`methods.py` says what is learnt (StaR, StaR+, DAgger), `rollouts.py` is the one place where rollouts are made,
`rounds.py` is the loop.
"""
