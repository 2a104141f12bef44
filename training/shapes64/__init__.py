"""Training code of `shapes64`, the diffusion model that ships inside the package; see README.md beside this file."""
