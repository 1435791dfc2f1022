"""Schedules, solvers and guidance. Solvers see a callable `denoise(x, sigma) -> x0` and a list of sigmas, nothing of
SANA.
"""
