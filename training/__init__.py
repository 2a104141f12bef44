"""Training code of the models that this repository ships; never imported by the package."""
