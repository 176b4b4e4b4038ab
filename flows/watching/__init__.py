"""What one sees of a run in Prefect: artifacts, the report, the log."""
