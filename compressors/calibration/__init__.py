"""Which range each activation of a network gets when it is quantized: observed, summed up, and clipped by a rule.

`observe` runs a float file over rows, `histogram` sums up what it saw, `ranges` decides where to clip, `shift` says
whether the rows look like those that the model is judged on. Only `observe` touches a runtime.
"""
