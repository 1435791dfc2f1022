"""Kernels in Triton, each a PyTorch operation in the namespace "sana". Import these modules only if Triton is present.

Every file has its block sizes in one table. They are fixed: a choice by measuring would make results depend on time.
"""
