"""Shards: the files that a large dataset is kept in, and the split each of them belongs to."""

from collections.abc import Iterable

from vitlora.data.layouts.reading import Place, split_of, splits_in
from vitlora.errors import DataError, a_few, printable


def shard_splits(names: Iterable[str], place: Place) -> dict[str, str]:
    """Returns the split of each shard, by a folder's name or a word of the shard's own name.

    ``train/0000.parquet`` and ``birds-train-00000-of-00002.tar`` are both ``train``. All are empty
    where none names a split.

    Args:
        names: Of the shards in the place.
        place: Where they lie, for messages.

    Raises:
        DataError: A name fits two splits, or some shards name a split and others none.
    """
    found = {name: _split(name, place) for name in sorted(names)}
    without = [printable(name) for name, split in found.items() if not split]
    named = [printable(name) for name, split in found.items() if split]
    if without and named:
        raise DataError(
            f"{place.root}: the names of {a_few(named, 2)} say which split they belong to, those "
            f"of {a_few(without, 3)} do not; expected train, val or test in each. Rename these, or "
            "move them elsewhere"
        )
    return found


def _split(name: str, place: Place) -> str:
    *folders, file = name.split("/")
    above = {split for folder in folders if (split := split_of(folder))}
    splits = sorted(above | splits_in(file.rpartition(".")[0]))
    if len(splits) > 1:
        raise DataError(
            f"{place.root}: {printable(name)} can belong to {' or '.join(splits)}; expected a "
            "name with one split in it"
        )
    return splits[0] if splits else ""


def one_dataset(names: Iterable[str], place: Place) -> None:
    """Refuses shards in several folders, unless these are splits: they may be different datasets.

    Raises:
        DataError: They lie in several.
    """
    folders = [name.split("/")[:-1] for name in names]
    above = {"/".join(part for part in parts if not split_of(part)) for parts in folders}
    if len(above) > 1:
        some = a_few((f"{printable(folder) or '.'}/" for folder in sorted(above)), 5)
        raise DataError(
            f"{place.root} holds datasets in several folders ({some}); name one of the folders"
        )
