"""The names in a run's folder. Whoever writes or looks for a file of a run takes its name from here."""

from __future__ import annotations

from abstractvision_batch.job.prompt_files import FRAMES

#: What was asked for and by what: the first file of a run, and the last that is removed.
RECORD = "run.json"
#: Records of what extended it.
EXTENSIONS = "extensions"
#: A plan of several files is a folder.
PLAN, PLANS = "plan.parquet", "plan"
#: What generates, as the first worker found it; later ones are held to it.
WEIGHTS, SERVER, CANARY = "weights.json", "server.json", "canary.json"
#: What ran shards of a run later on, where that was another executor than the run was begun on.
EXECUTOR = "executor.json"
#: Machines and software that rows were made on.
ENVIRONMENTS = "environments"
ARTIFACTS = "artifacts"
#: The parts of shards, and what they are merged to.
PARTS, MANIFEST = "manifest", "manifest.parquet"
#: The report of a merged run: for the Hugging Face hub, for people. `README` is written last.
METADATA, REPORT, README = "metadata.parquet", "report", "README.md"
CONTACT_SHEET = f"{REPORT}/contact-sheet.png"
#: A page to look at the run with; derived, so its absence is no fault.
GALLERY = "gallery"
GALLERY_PAGE = f"{GALLERY}/index.html"

#: Files in the folder of each model of a run.
MODEL_FILES = (WEIGHTS, SERVER, CANARY)
#: Folders with files of ours outside of `ARTIFACTS`.
FOLDERS = (
    *("", PARTS, ENVIRONMENTS, EXTENSIONS, PLANS, REPORT, FRAMES),
    *(GALLERY, f"{GALLERY}/data", f"{GALLERY}/thumbs", f"{GALLERY}/inputs"),
)
