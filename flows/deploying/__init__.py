"""Deployments on a Prefect server, and runs asked of them."""

DEPLOYMENT = "generate-images/on-demand"
"""The one that runs when it is asked to."""
