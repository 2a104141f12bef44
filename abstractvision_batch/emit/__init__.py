"""`avbatch emit`: a job as what a scheduler takes: manifests, scripts, units, tables and workflows, ready to apply."""
