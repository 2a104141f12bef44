"""A backend without a model, with which anyone tries a pipeline.

`fields` its section of a spec · `drawing` pictures of prompt and seed · `backend` the interface over that, with delays,
failures and crashes on demand.
"""
