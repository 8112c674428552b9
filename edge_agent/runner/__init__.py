"""The child process that holds one model: loads it, proves it, serves it, and leaves when its last client has.

`control` is what it says to the supervisor; `process` puts the parts together. Of these modules only those that touch
tensors (`selftest`, `tensors`, `app`) import numpy: the front process uses `http`, `listener` and `channel` and stays
small.
"""
