"""URLs of input images that give access: the plan has them without what does, and workers are told the rest.

What a URL is signed with stands in the prompt dataset alone, which is read again whenever a run starts or goes on.
"""

from __future__ import annotations

import logging

from abstractvision_batch.errors import DependencyError, SpecError, StorageError
from abstractvision_batch.job.load import Job
from abstractvision_batch.prompts.images import locate_image
from abstractvision_batch.prompts.rows import PromptReader
from abstractvision_batch.prompts.sources import find_files
from abstractvision_batch.storage.scratch import scratch_folder
from abstractvision_batch.storage.urls import is_remote
from abstractvision_batch.text.redaction import lasting_url

logger = logging.getLogger(__name__)

#: Of all URLs together: each worker holds them.
MAX_BYTES = 256 << 20


def find_signed_images(job: Job) -> dict[str, str]:
    """Return the whole URL of each input image that the plan names without what gives access.

    Raises:
        SpecError: they are too long together.
    """
    found: dict[str, str] = {}
    size_bytes = 0
    try:
        with scratch_folder() as scratch:
            for folder, name in PromptReader(job, find_files(job, scratch)).image_names():
                url = locate_image(folder, name)
                if is_remote(url) and (kept := lasting_url(url)) != url and kept not in found:
                    found[kept] = url
                    size_bytes += len(kept) + len(url)
                    if size_bytes > MAX_BYTES:
                        break
    except (SpecError, StorageError, DependencyError, ValueError) as error:
        logger.warning("URLs of input images are signed, and their signatures cannot be read again: %s", error)
        return {}
    if size_bytes > MAX_BYTES:
        place = job.at("prompts.source")
        raise SpecError(
            f"{place}: signed URLs of input images have over {MAX_BYTES >> 20} MiB together "
            "(name them without signature, and what gives access in prompts.storage_options)"
        )
    return found
