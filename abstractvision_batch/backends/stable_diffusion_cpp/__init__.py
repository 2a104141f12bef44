"""Local generation with stable-diffusion.cpp. The native library never runs in this process.

`fields` its section of a spec · `config` what a user says · `options` one table of its parameters, in three spellings ·
`model_files` weights checked before anything starts · `loras` adapters by name · `prepare` a request translated ·
`program` which programs there are and what they take · `child` a process that cannot outlive this one · `runner` what
the three modes share · `cli_runner` a program per request · `server_runner` one server · `binding_runner` and
`binding_worker` the Python package in a process of its own · `backend` the interface over all that.
"""
