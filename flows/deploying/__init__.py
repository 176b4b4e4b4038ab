"""Deployments on a Prefect server, and runs asked of them."""
