"""Files of objects and trajectories that others read and write, each both ways: `read()` and `write(trajectories)`.

Members are interchangeable (scripts/convert.py); what a format cannot say is listed in its docstring and in
docs/files.md. None of them opens a picture unless its format leaves out the size.
"""
