"""The tables and figures of the paper, from runs of this repository: cells -> arms -> rows -> one page.

cells.py runs entries and keeps what they wrote; arms.py reads predictions and compares them; section.py is what a part
of the page holds, plots.py draws, page.py writes. The parts: clicking.py (tables 1, 2), judging.py (table 3),
difficulty.py (figure 3), searching.py (figure 4, cost), improving.py (figure 4, policy improvement), training.py
(tables 4, 5, 6).
"""
