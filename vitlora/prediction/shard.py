"""Which of many processes predicts which pictures. Needs no torch."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from vitlora.errors import UsageError

# rank and number of processes: torchrun's, then those of a step that srun started. The script of
# a SLURM job has SLURM_PROCID and SLURM_NTASKS, too, but runs once, and no SLURM_STEP_NUM_TASKS.
_VARIABLES = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"))


@dataclass(frozen=True)
class Shard:
    """The share of one of several processes.

    A picture belongs to a shard by a hash of its name alone. So shards are disjoint and complete
    whatever the order of a listing, and a picture that is added moves no other.

    Attributes:
        number: Which one, from 1.
        of: How many there are.

    Examples:
        >>> shards = [Shard(number, 3) for number in (1, 2, 3)]
        >>> sum(shard.takes("cat/1.jpg") for shard in shards)
        1
    """

    number: int = 1
    of: int = 1

    @classmethod
    def read(cls, text: str) -> "Shard":
        """Returns the shard of a text such as ``2/4``.

        Raises:
            UsageError: It is not K/N with 1 <= K <= N.
        """
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
        shard = cls(*map(int, found.groups())) if found else cls(0)
        if not 1 <= shard.number <= shard.of:
            raise UsageError(
                f"--shard is '{text}'; expected K/N with K from 1 to N, such as 1/4 for the first "
                "of four"
            )
        return shard

    @classmethod
    def launched(cls, variables: Mapping[str, str] = os.environ) -> "tuple[Shard, str]":
        """Returns the shard of this process by torchrun's or srun's variables, and their names.

        The only shard, and no names, where no such program started several processes.

        Raises:
            UsageError: The variables are no such numbers.
        """
        for rank, count in _VARIABLES:
            texts = variables.get(rank, ""), variables.get(count, "")
            if not all(texts):
                continue
            number, of = (int(text) if text.isdecimal() else -1 for text in texts)
            if not 0 <= number < of:
                raise UsageError(
                    f"{rank} is {texts[0]!r} and {count} is {texts[1]!r}; expected this process's "
                    "number, from 0, and how many there are; --shard 1/1 predicts all"
                )
            if of > 1:
                return cls(number + 1, of), f"{rank} and {count}"
        return cls(), ""

    def takes(self, name: str) -> bool:
        """Returns whether a picture is in this shard.

        Args:
            name: Its name in the place that all processes list, NFC, with forward slashes.
        """
        if self.of == 1:
            return True
        digest = blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        return int.from_bytes(digest) % self.of == self.number - 1

    def file(self, target: Path) -> Path:
        """Returns the file of this shard: ``answers-02-of-16.parquet`` for ``answers.parquet``."""
        if self.of == 1:
            return target
        number = str(self.number).zfill(len(str(self.of)))
        return target.with_name(f"{target.stem}-{number}-of-{self.of}{target.suffix}")

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"
