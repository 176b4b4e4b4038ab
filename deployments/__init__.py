"""prefect.yaml and automations.yaml, installed as `imagetask_deployments` for the commands `deploy` and `serve`."""
