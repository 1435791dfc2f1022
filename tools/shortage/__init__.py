"""Every allocation of a job fails once, see `__main__.py`."""
