"""Trains the small ViT that ships inside the package on pictures drawn from formulas.

python pretraining/pretrain.py --output vitlora/backbones/vit_micro_patch8_96.safetensors
"""

import argparse
import math
import multiprocessing
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import torch
import torch.nn.functional as F
from pictures import ATTRIBUTES, GRID, MAPS, SIDE, Studio
from safetensors.torch import save_file
from timm.layers import set_fused_attn
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

ARCHITECTURE = {
    "img_size": 96,
    "patch_size": 8,
    "embed_dim": 160,
    "depth": 6,
    "num_heads": 5,
    "class_token": True,
    "qkv_bias": True,
}
SIDES = ((0.0, 48), (0.4, 64), (0.84, 96))  # from which share of the time, pixels of a picture
SHARE = 32  # pictures one thread handles at a time
SAVE_EVERY = 180.0  # seconds between checkpoints
NORMAL = [MAPS.index("normal_x"), MAPS.index("normal_y")]
LIGHT = [ATTRIBUTES.index("light_x"), ATTRIBUTES.index("light_y")]


class Bank:
    """Drawn pictures and their labels, in memory shared between the processes that draw them.

    Args:
        studio: draws the pictures.
        size: number of pictures.
    """

    def __init__(self, studio: Studio, size: int):
        self.studio = studio
        self.images = torch.empty(size, 3, SIDE, SIDE, dtype=torch.uint8).share_memory_()
        self.categories = torch.empty(size, 2, dtype=torch.long).share_memory_()
        self.attributes = torch.empty(size, len(ATTRIBUTES)).share_memory_()
        self.maps = torch.empty(size, len(MAPS), GRID, GRID).share_memory_()

    def fill(self, workers: int) -> None:
        """Draws every picture, split over `workers` processes."""
        context = multiprocessing.get_context("fork")
        size = len(self.images)
        shares = [range(worker, size, workers) for worker in range(workers)]
        processes = [context.Process(target=self._draw, args=(share,)) for share in shares]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            if process.exitcode:
                raise RuntimeError(f"a drawing process ended with exit code {process.exitcode}")

    def _draw(self, indices: range) -> None:
        cv2.setNumThreads(1)
        for index in indices:
            picture = self.studio.draw(index)
            self.images[index] = torch.from_numpy(picture.image).permute(2, 0, 1)
            self.categories[index] = torch.tensor([picture.outline, picture.surface])
            self.attributes[index] = torch.from_numpy(picture.attributes)
            self.maps[index] = torch.from_numpy(picture.maps)

    def order(self, batch_size: int) -> Iterator[Tensor]:
        """Yields (batch_size,) picture numbers without end, reshuffled on every pass."""
        while True:
            numbers = torch.randperm(len(self.images))
            yield from numbers[: len(numbers) // batch_size * batch_size].split(batch_size)


def augment(images: Tensor, attributes: Tensor, maps: Tensor, side: int) -> tuple[Tensor, ...]:
    """Crops, mirrors and recolours a batch; mirroring turns the light and the normals too.

    Args:
        images: (B, 3, SIDE, SIDE) uint8.
        attributes: (B, len(ATTRIBUTES)), -1 to 1.
        maps: (B, len(MAPS), GRID, GRID), -1 to 1.
        side: pixels of the returned pictures.

    Returns:
        Images (B, 3, side, side), about -1 to 1; attributes; and maps with one cell per patch.
    """
    count = len(images)
    mirror = torch.randint(0, 2, (count, 2)) * 2.0 - 1
    zoom = torch.empty(count, 1).uniform_(0.45, 1).sqrt()
    extent = (zoom * torch.empty(count, 2).uniform_(-0.15, 0.15).exp()).clamp(max=1)
    centre = torch.empty(count, 2).uniform_(-1, 1) * (1 - extent)
    affine = torch.cat([torch.diag_embed(extent * mirror), centre[..., None]], 2)  # (B, 2, 3)
    images = _crop(images.float() / 127.5 - 1, affine, side)
    images = images * torch.empty(count, 1, 1, 1).uniform_(0.8, 1.25)
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * torch.empty(count, 1, 1, 1).uniform_(0.7, 1.2)
    maps = _crop(maps, affine, side // ARCHITECTURE["patch_size"])
    attributes = attributes.clone()
    attributes[:, LIGHT] *= mirror
    maps[:, NORMAL] *= mirror[..., None, None]
    return images.clamp(-1.2, 1.2), attributes, maps


def _crop(images: Tensor, affine: Tensor, side: int) -> Tensor:
    grid = F.affine_grid(affine, [len(images), images.shape[1], side, side], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


class Objective(nn.Module):
    """Says what a picture was drawn from: class token for the whole, patch tokens for their place.

    The heads of the pre-training live here, so they never reach the saved file.

    Args:
        backbone: the network to train, without a head.
        studio: knows how many categories there are.
    """

    def __init__(self, backbone: VisionTransformer, studio: Studio):
        super().__init__()
        self.backbone = backbone
        self.sizes = [len(studio.outlines), len(studio.surfaces), len(ATTRIBUTES)]
        self.whole = nn.Linear(backbone.embed_dim, sum(self.sizes))
        self.place = nn.Linear(backbone.embed_dim, len(MAPS))

    def forward(self, images: Tensor, categories: Tensor, attributes: Tensor, maps: Tensor):
        """Returns (4,): the losses of outlines, surfaces, attributes and maps.

        Args:
            images: (B, 3, H, W), normalised.
            categories: (B, 2), outline and surface.
            attributes: (B, len(ATTRIBUTES)), -1 to 1.
            maps: (B, len(MAPS), H / patch, W / patch), -1 to 1.
        """
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            tokens = self.backbone.forward_features(images)  # (B, 1 + patches, width)
            whole, place = self.whole(tokens[:, 0]), self.place(tokens[:, 1:])
        outline, surface, measured = whole.float().split(self.sizes, 1)
        losses = [
            F.cross_entropy(outline, categories[:, 0], label_smoothing=0.1),
            F.cross_entropy(surface, categories[:, 1], label_smoothing=0.1),
            10 * F.mse_loss(measured, attributes),
            10 * F.mse_loss(place.float(), maps.flatten(2).mT),
        ]
        return torch.stack(losses)


def learning_rate(progress: float, peak: float = 2e-3, warmup: float = 0.04) -> float:
    """Returns a linear warm-up followed by a cosine to zero; `progress` goes from 0 to 1."""
    if progress < warmup:
        return peak * max(progress, 1e-3) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * min(1, (progress - warmup) / (1 - warmup))))


def optimiser(model: nn.Module) -> torch.optim.Optimizer:
    """Returns AdamW that decays matrices only."""
    decay = [p for name, p in model.named_parameters() if p.ndim > 1 and "embed" not in name]
    plain = [p for name, p in model.named_parameters() if p.ndim <= 1 or "embed" in name]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98))


def save(model: nn.Module, path: Path, seed: int, seen: int) -> None:
    """Writes the backbone in fp16, replacing `path` in one step."""
    tensors = {
        name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()
    }
    metadata = {
        "format": "pt",
        "source": "pretraining/pretrain.py",
        "data": "pictures drawn by pretraining/pictures.py; no photographs",
        "seed": str(seed),
        "pictures_seen": str(seen),
        "licence": "same as the project (MIT)",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".partial")
    save_file(tensors, draft, metadata)
    draft.chmod(0o644)  # safetensors makes it readable by its owner only
    draft.replace(path)


def backward(objective: Objective, bank: Bank, side: int, total: int, index: Tensor) -> Tensor:
    """Adds one share's gradient to the parameters and returns its part of the four losses.

    Shares run on threads of one core each: a core busy elsewhere then delays a share, not every
    operation of the network, which is what torch's own threads inside an operation would do.
    """
    images, *labels = augment(bank.images[index], bank.attributes[index], bank.maps[index], side)
    losses = objective(images, bank.categories[index], *labels) * (len(index) / total)
    losses.sum().backward()
    return losses.detach()


def train(objective: Objective, bank: Bank, options: argparse.Namespace, start: float) -> int:
    """Trains until `options.minutes` after `start` and returns the number of pictures seen.

    The schedule follows the clock, so the last step has a learning rate near zero whatever the
    speed. Ctrl-C or SIGTERM ends it early; what has been learnt is still returned and saved.
    """
    adamw = optimiser(objective)
    seen, begin, saved, budget = 0, time.monotonic(), time.monotonic(), options.minutes * 60
    average = torch.zeros(4)
    pool = ThreadPoolExecutor(options.workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        for step, index in enumerate(bank.order(options.batch_size)):
            now = time.monotonic()
            progress = (now - begin) / max(budget - (begin - start), 1)
            if progress >= 1:
                break
            side = max(side for share, side in SIDES if share <= progress)
            for group in adamw.param_groups:
                group["lr"] = learning_rate(progress, options.rate)
            adamw.zero_grad()
            share = partial(backward, objective, bank, side, len(index))
            losses = torch.stack(list(pool.map(share, index.split(SHARE)))).sum(0)
            nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
            adamw.step()
            seen += len(index)
            average = losses if step == 0 else average.lerp(losses, 0.02)
            if step % 100 == 0:
                report(now - start, step, seen, side, adamw.param_groups[0]["lr"], average)
            if now - saved > SAVE_EVERY:
                save(objective.backbone, options.output, options.seed, seen)
                saved = now
    except KeyboardInterrupt:
        print("interrupted: saving what has been learnt", flush=True)
    return seen


def report(seconds: float, step: int, seen: int, side: int, rate: float, losses: Tensor) -> None:
    """Prints one line of progress."""
    outline, surface, attributes, maps = losses.tolist()
    print(
        f"{seconds / 60:6.2f} min  step {step:5d}  seen {seen:8d}  {side} px  lr {rate:.2e}  "
        f"outline {outline:.3f}  surface {surface:.3f}  "
        f"attributes {attributes:.3f}  maps {maps:.3f}",
        flush=True,
    )


def contact_sheet(bank: Bank, path: Path, rows: int = 10, columns: int = 14) -> None:
    """Writes the bank's first pictures side by side as one image file."""
    tiles = bank.images[: rows * columns].view(rows, columns, 3, SIDE, SIDE)
    sheet = tiles.permute(0, 3, 1, 4, 2).reshape(rows * SIDE, columns * SIDE, 3)
    cv2.imwrite(str(path), cv2.cvtColor(sheet.numpy(), cv2.COLOR_RGB2BGR))


def parse() -> argparse.Namespace:
    """Returns the command line's options."""
    parser = argparse.ArgumentParser(description="Trains the micro-ViT on drawn pictures.")
    parser.add_argument("--output", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--minutes", type=float, default=45.0, help="wall clock, drawing included")
    parser.add_argument("--seed", type=int, default=0, help="decides categories, pictures, weights")
    parser.add_argument("--pictures", type=int, default=40_000, help="pictures drawn (28 kB each)")
    parser.add_argument("--batch-size", type=int, default=128, help="pictures per step")
    parser.add_argument("--rate", type=float, default=1.5e-3, help="peak learning rate")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw")
    parser.add_argument("--contact-sheet", type=Path, help="also write the first pictures here")
    return parser.parse_args()


def main() -> None:
    """Draws, trains, saves."""
    start, options = time.monotonic(), parse()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    studio = Studio(seed=options.seed)
    bank = Bank(studio, options.pictures)
    bank.fill(options.workers)
    print(f"{options.pictures} pictures drawn in {time.monotonic() - start:.0f} s", flush=True)
    if options.contact_sheet:
        contact_sheet(bank, options.contact_sheet)
    set_fused_attn(False)  # torch's fused attention is 2.5 times slower backwards in bf16 on a CPU
    torch.manual_seed(options.seed)
    model = VisionTransformer(**ARCHITECTURE, num_classes=0, dynamic_img_size=True)
    seen = train(Objective(model, studio), bank, options, start)
    save(model, options.output, options.seed, seen)
    size, minutes = options.output.stat().st_size, (time.monotonic() - start) / 60
    print(f"{seen} pictures seen in {minutes:.1f} min; {options.output.name}: {size} bytes")


if __name__ == "__main__":
    main()
