"""Trains the UNet: on one CUDA device, or on any number of CPU processes with one thread each.

    python -m training.shapes64.train_unet --work DIR --samples 500000 --processes 2

Every sample is a freshly drawn scene, its defined latent and the frozen text encoding of its prompt, so neither VAE
half is needed here. The loss is the plain mean square of the predicted v over uniformly spread time steps. The learning
rate is flat and then falls as a cosine; what is kept is the moving average of the weights.

`DIR/unet.pt` is the checkpoint: run the same command again after a stop and it goes on from there. `--samples` and
`--minutes` may differ on the next run; the learning rate follows whichever of the two is closer to its end.

*Not covered:* several machines, several GPUs, mixed precision (measured on an AVX-512 CPU: bfloat16 no faster, and
`torch.compile` 5 % faster after 111 s of compiling).
"""

from __future__ import annotations

import argparse
import logging
import math
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import distributed
from torch.multiprocessing.spawn import spawn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel
from transformers import CLIPTextModel, CLIPTokenizer

from training.shapes64.architecture import build_scheduler, build_unet, encode_prompts, latents_of
from training.shapes64.grammar import TRAINED, prompt_for
from training.shapes64.render import draw_batch

LEARNING_RATE = 1.2e-3
WARMUP_STEPS = 100
HOLD = 0.5  # share of the training before the learning rate starts to fall
EMA_DECAY = 0.999
DROP_PROMPT = 0.1  # unconditional samples, for classifier-free guidance
SAVE_SECONDS = 180.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UnetTraining:
    """How long and on what to train.

    Attributes:
        work: Folder of the tokenizer, the text encoder and the checkpoint.
        init: Diffusers folder to take the first weights from, unless there is a checkpoint; None starts from scratch.
        samples: Training samples in all, over every run that shares the checkpoint.
        minutes: Wall-clock minutes in all; whichever of the two ends first.
        batch: Samples per step and process.
    """

    work: Path
    init: Path | None = None
    samples: int = 500_000
    minutes: float = math.inf
    processes: int = 1
    batch: int = 32
    device: str = "cpu"
    seed: int = 0

    @property
    def checkpoint(self) -> Path:
        """The file that a later run goes on from."""
        return self.work / "unet.pt"


class PromptTable:
    """The encoding of every prompt that training can meet, computed once; the last row is the empty prompt."""

    def __init__(self, work: Path) -> None:
        """Encode them all with the tokenizer and the text encoder in `work`."""
        tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
        encoder = CLIPTextModel.from_pretrained(work / "text_encoder").float()
        prompts = {
            prompt_for(combination, say_size=say_size, say_background=say_background)
            for combination in TRAINED
            for say_size in (True, False)
            for say_background in (True, False)
        }
        ordered = [*sorted(prompts), ""]
        self.encodings = encode_prompts(tokenizer, encoder, ordered)
        self._row = {prompt: row for row, prompt in enumerate(ordered)}

    def encode(self, prompts: list[str]) -> torch.Tensor:
        """The encodings of a batch, each prompt dropped with probability `DROP_PROMPT`."""
        rows = torch.tensor([self._row[prompt] for prompt in prompts])
        rows[torch.rand(len(prompts)) < DROP_PROMPT] = self._row[""]
        return self.encodings[rows]


def learning_rate(step: int, progress: float) -> float:
    """The learning rate at a step, `progress` being the share of the training that is done."""
    falling = max(0.0, progress - HOLD) / (1 - HOLD)
    return LEARNING_RATE * min(1.0, (step + 1) / WARMUP_STEPS) * (0.5 + 0.5 * math.cos(math.pi * falling)) + 5e-6


def diffusion_loss(
    unet: UNet2DConditionModel, latents: torch.Tensor, text: torch.Tensor, alphas: torch.Tensor
) -> torch.Tensor:
    """Mean square error of the predicted v; `alphas` is the share of signal variance left at each time step."""
    count = len(latents)
    # One time step from each of `count` equal slices: the loss is steadier than with independent draws.
    slices = (torch.randperm(count) + torch.rand(count)) / count
    times = (slices * len(alphas)).long().clamp(max=len(alphas) - 1).to(latents.device)
    signal, spread = (part[:, None, None, None].sqrt() for part in (alphas[times], 1 - alphas[times]))
    noise = torch.randn_like(latents)
    predicted = unet(signal * latents + spread * noise, times, text).sample
    return functional.mse_loss(predicted, signal * noise - spread * latents)


def blend_weights(average: torch.Tensor, current: torch.Tensor, count: torch.Tensor | int) -> torch.Tensor:
    """The moving average of one weight after another step; short at first, or it would remember the random start."""
    decay = min(EMA_DECAY, (int(count) + 1) / (int(count) + 10))
    return torch.lerp(current, average, decay)


def average_gradients(parameters: list[torch.nn.Parameter], processes: int) -> None:
    """Replace each gradient by its mean over the processes and clip the whole to norm 1."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if processes > 1:
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        flat /= processes
        for gradient, mean in zip(
            gradients, torch.split(flat, [gradient.numel() for gradient in gradients]), strict=True
        ):
            gradient.copy_(mean.view_as(gradient))
    torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)


def _first_weights(options: UnetTraining) -> UNet2DConditionModel:
    if options.init is None:
        torch.manual_seed(options.seed)
        return build_unet()
    return UNet2DConditionModel.from_pretrained(options.init / "unet").float()


def run_process(rank: int, options: UnetTraining, meeting: str) -> None:
    """Train as process `rank`; all processes hold the same weights after every step."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.device == "cpu":
        torch.set_num_threads(1)
    if options.processes > 1:
        distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=options.processes)
    device = torch.device(options.device)
    unet = _first_weights(options).train().to(device)
    average = AveragedModel(unet, avg_fn=blend_weights)
    optimizer = torch.optim.AdamW(unet.parameters(), LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-2, foreach=True)
    parameters = list(unet.parameters())
    step, before = 0, 0.0
    if options.checkpoint.exists():
        saved = torch.load(options.checkpoint, map_location=device)
        unet.load_state_dict(saved["unet"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        step, before = saved["step"], saved["seconds"]

    prompts = PromptTable(options.work)
    alphas = build_scheduler().alphas_cumprod.to(device)
    rng = random.Random(f"{options.seed}/{rank}/{step}")
    torch.manual_seed(rng.getrandbits(32))
    per_step = options.batch * options.processes
    start = saved_at = time.monotonic()
    smooth = None
    while True:
        seconds = before + time.monotonic() - start
        progress = torch.tensor(max(step * per_step / options.samples, seconds / 60 / options.minutes))
        if options.processes > 1:
            distributed.broadcast(progress, 0)  # clocks differ, and all must stop at the same step
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, float(progress))

        images, sentences, _ = draw_batch(options.batch, rng, TRAINED)
        loss = diffusion_loss(unet, latents_of(images).to(device), prompts.encode(sentences).to(device), alphas)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        average_gradients(parameters, options.processes)
        optimizer.step()
        average.update_parameters(unet)
        step += 1

        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        if rank == 0 and step % 100 == 0:
            logger.info("step %d samples %d loss %.4f %.0f s", step, step * per_step, smooth, seconds)
        if rank == 0 and time.monotonic() - saved_at > SAVE_SECONDS:
            saved_at = time.monotonic()
            _save(options, unet, average, optimizer, step, before + time.monotonic() - start)
    if rank == 0:
        _save(options, unet, average, optimizer, step, before + time.monotonic() - start)
        logger.info("done: %d samples, %.0f CPU seconds in this process", step * per_step, time.process_time())
    if options.processes > 1:
        distributed.destroy_process_group()


def _save(
    options: UnetTraining,
    unet: UNet2DConditionModel,
    average: AveragedModel,
    optimizer: torch.optim.Optimizer,
    step: int,
    seconds: float,
) -> None:
    state = {
        "unet": unet.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "seconds": seconds,
    }
    part = options.checkpoint.with_suffix(".part")
    torch.save(state, part)
    part.replace(options.checkpoint)


def train_unet(options: UnetTraining) -> None:
    """Train in this process, or start the processes and wait for them."""
    if options.processes == 1:
        run_process(0, options, "")
        return
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{folder}/meeting"
        spawn(run_process, args=(options, meeting), nprocs=options.processes)  # type: ignore[no-untyped-call]


def load_average(checkpoint: Path) -> UNet2DConditionModel:
    """The averaged weights of a checkpoint: what is exported."""
    unet = build_unet()
    average = AveragedModel(unet)
    average.load_state_dict(torch.load(checkpoint, map_location="cpu")["average"])
    trained: UNet2DConditionModel = average.module
    return trained.eval()


def main() -> None:
    """Command line of this stage alone; `train` runs all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--init", type=Path)
    parser.add_argument("--samples", type=int, default=500_000)
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    train_unet(UnetTraining(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
