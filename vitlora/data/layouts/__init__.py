"""How people store labelled pictures: a file each, which turns a place into a Reading."""

from vitlora.data.layouts.coco import Coco
from vitlora.data.layouts.cvat import Cvat
from vitlora.data.layouts.datasets import Datasets
from vitlora.data.layouts.fiftyone import FiftyOne
from vitlora.data.layouts.folders import ClassFolders, Folders, NestedFolders
from vitlora.data.layouts.label_studio import LabelStudio
from vitlora.data.layouts.reading import Layout, LayoutOptions, Place
from vitlora.data.layouts.table import Tables
from vitlora.data.layouts.webdataset import WebDataset
from vitlora.errors import DataError, UsageError, a_few, counted, nearest

LAYOUTS: tuple[Layout, ...] = (
    Folders(),
    NestedFolders(),
    ClassFolders(),
    Tables(),
    LabelStudio(),
    Cvat(),
    FiftyOne(),
    Coco(),
    Datasets(),
    WebDataset(),
)


def layout_named(name: str) -> Layout:
    """Returns a layout.

    Raises:
        UsageError: There is none of that name.
    """
    names = [layout.name for layout in LAYOUTS]
    if name not in names:
        raise UsageError(
            f"data.layout is '{name}'{nearest(name, names)}; expected {', '.join(names)}, or null "
            "to recognise it"
        )
    return LAYOUTS[names.index(name)]


def recognised(place: Place, options: LayoutOptions) -> Layout:
    """Returns the layout that a place is stored in.

    Raises:
        DataError: None fits, or several do.
    """
    fitting = [layout for layout in LAYOUTS if layout.recognises(place, options)]
    if not fitting and place.file is None and any("/" in name for name in place.pictures):
        return Folders()  # which says what is wrong with them
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        ways = " or ".join(f"--data.layout {layout.name} ({layout.what})" for layout in fitting)
        raise DataError(f"{place.root} can be read in several ways; add {ways}")
    pictures = counted(len(place.pictures), "picture") if place.pictures else "no pictures"
    others = f" (it has {a_few(place.others, 3)})" if place.others else ""
    raise DataError(
        f"{place.root} holds {pictures}, and no class folders or table that give them classes"
        f"{others}; expected train/ and val/ with a folder for each class, or class folders, or a "
        "table with the columns file and label"
    )
