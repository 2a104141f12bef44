"""Local generation with Diffusers. Importing this package imports neither torch nor diffusers.

`fields` its section of a spec · `config` what a user says · `locate` where a model's files are · `loading` files to a
pipeline · `single_file` the same of a checkpoint · `tuning` quantisation, attention, compilation · `loaded_model` one
model's pipelines over one set of weights · `lora` adapters · `denoiser` another transformer in its place · `prepare` a
request to pipeline arguments · `views` angles as edits · `forward` one forward pass and its outcome · `backend` the
interface over all that.
"""
