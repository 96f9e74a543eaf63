"""The Parquet and Arrow files of a dataset, as Arrow files that can be mapped."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitlora.data.archives import open_file, size_and_time
from vitlora.data.hub import arrow_files
from vitlora.data.layouts.columns import paths_alone, picture_column, picture_columns
from vitlora.data.layouts.reading import LayoutOptions, Place, split_of
from vitlora.data.layouts.shards import one_dataset, shard_splits
from vitlora.data.rows import Rows, can_be_mapped, copy_rows, mark_used, schema_of, use_copies
from vitlora.data.waiting import shown
from vitlora.errors import DataError, a_few, printable
from vitlora.files import cache_folder

if TYPE_CHECKING:
    import pyarrow

ENDINGS = (".parquet", ".arrow")
CACHE = "rows"  # the kind of its files, for cache_folder


@dataclass(frozen=True)
class RowShard:
    """A file of rows.

    Attributes:
        name: What it is called in messages.
        file: An Arrow file that can be mapped.
        split: The split that its name gives; empty for none.
        first: How many rows of its split lie in the shards before it.
    """

    name: str
    file: Path
    split: str
    first: int

    @cached_property
    def table(self) -> "pyarrow.Table":
        """Its rows."""
        return Rows(str(self.file)).table


def row_files(place: Place) -> dict[str, Path]:
    """Returns the Parquet and Arrow files that a place is or holds, by name."""
    files = place.others if place.file is None else {place.file.name: place.file}
    return {name: path for name, path in files.items() if name.lower().endswith(ENDINGS)}


def shards_here(place: Place) -> list[RowShard]:
    """Returns the shards in a place, those without an Arrow file of their own copied to one.

    Raises:
        DataError: There are none, or something is wrong with them.
    """
    files = _listed(place, row_files(place))
    if not files:
        raise DataError(f"{place.root} holds no .parquet and no .arrow files")
    one_dataset(files, place)
    splits = shard_splits(files, place)
    copies = shown(splits, len(splits), "copying the rows of Parquet files")
    return _numbered((str(files[name]), _mapped(files[name]), splits[name]) for name in copies)


def shards_on_hub(name: str) -> list[RowShard]:
    """Returns the shards of a dataset on the hub.

    Raises:
        DataError: It cannot be found, or has splits of other names than usual.
    """
    found = arrow_files(name)
    splits = {one: split_of(one) or "" for one in found}
    known = [split for split in splits.values() if split]
    if len(found) > 1 and len({*known}) < len(found):
        raise DataError(
            f"{name} has the splits {a_few(map(printable, found))}; expected train, and perhaps "
            "validation and test: save those you need with save_to_disk, and name that folder"
        )
    return _numbered((name, file, splits[one]) for one, files in found.items() for file in files)


def _numbered(shards: Iterable[tuple[str, Path, str]]) -> list[RowShard]:
    """Returns shards, each with the number of its first row in its split."""
    count: Counter[str] = Counter()
    made: list[RowShard] = []
    for name, file, split in shards:
        made.append(RowShard(name, file, split, count[split]))
        count[split] += made[-1].table.num_rows
    return made


def _listed(place: Place, files: Mapping[str, Path]) -> dict[str, Path]:
    """Returns the files that ``save_to_disk`` lists in ``state.json``, else all.

    The others that lie beside them are caches.

    Raises:
        DataError: A ``state.json`` is damaged, or names a file that is not there.
    """
    states = [name for name in place.others if name.rpartition("/")[2] == "state.json"]
    if place.file or not states:
        return dict(files)
    found: dict[str, Path] = {}
    for name in states:
        try:
            state: Any = json.loads(place.read_text(place.others[name]))
            listed = [one["filename"] for one in state["_data_files"]]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise DataError(
                f"{place.others[name]} is not what save_to_disk writes; expected _data_files"
            ) from None
        if state.get("_indices_data_files"):
            raise DataError(
                f"{place.others[name]}: an old version of datasets saved it with an order of its "
                "rows; load it and save it again with version 2 or newer"
            )
        folder = name.removesuffix("state.json")
        if missing := [str(one) for one in listed if f"{folder}{one}" not in files]:
            some = a_few((printable(one, 80) for one in missing), 3)
            raise DataError(f"{place.others[name]} lists {some}, which is not there")
        found |= {f"{folder}{one}": files[f"{folder}{one}"] for one in listed}
    return found


def _mapped(path: Path) -> Path:
    """Returns an Arrow file that can be mapped: a file itself, or a copy of its rows.

    Raises:
        DataError: It is damaged, or the copy cannot be written.
    """
    if can_be_mapped(path):
        return path
    what = f"{path.absolute()}\n{size_and_time(path)}"
    digest = hashlib.sha256(what.encode("utf-8", "surrogateescape")).hexdigest()
    kept = cache_folder(CACHE) / f"{digest[:32]}.arrow"
    try:
        use_copies(kept.parent)
        if not kept.exists():
            with open_file(path) as opened:
                copy_rows(opened, kept, path)
        mark_used(kept)
    except OSError as error:
        raise DataError(
            f"{path}: its rows cannot be copied to {kept.parent} ({error.strerror or error})"
        ) from None
    return kept


def holds_pictures(path: Path) -> bool:
    """Returns whether a Parquet or Arrow file has a column of picture files.

    Raises:
        DataError: pyarrow is not installed, or the file is damaged.
    """
    with open_file(path) as opened:
        return bool(picture_columns(schema_of(opened, path)))


def pictures_in(place: Place, options: LayoutOptions) -> Iterator[tuple[Path, str]]:
    """Yields the picture of each row, with a class or without, and what to call it.

    Raises:
        DataError: There are none, or the files are damaged.
    """
    if place.hub:
        shards = shards_on_hub(place.hub)
    else:
        files = _listed(place, row_files(place))
        shards = _numbered((str(path), _mapped(path), "") for path in files.values())
    for shard in shards:
        column = picture_column(shard.table.schema, options, shard.name)
        check_held(shard, column)
        inside = f"{shard.split}/" * bool(place.hub)
        for row in range(shard.table.num_rows):
            number = shard.first + row if place.hub else row
            yield shard.file / column / str(row), f"{shard.name}/{inside}{column}/{number}"


def check_held(shard: RowShard, column: str) -> None:
    """Refuses a column of paths alone.

    Raises:
        DataError: It is one.
    """
    if paths_alone(shard.table, column):
        raise DataError(
            f"{shard.name}: the column '{column}' holds paths of pictures, not the pictures; name "
            "the folder that they lie in (from the hub: hf download --repo-type dataset OWNER/NAME "
            "--local-dir FOLDER)"
        )
