"""Runs that are killed, at named points and at random times, and what the model server saw of it."""
