"""Make quantised files: which layer in which format, the numbers, the file, the report."""
