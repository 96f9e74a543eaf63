"""How people store labelled pictures: a file each, which turns a place into a Reading."""

from vitlora.data.layouts.coco import Coco
from vitlora.data.layouts.cvat import Cvat
from vitlora.data.layouts.fiftyone import FiftyOne
from vitlora.data.layouts.folders import ClassFolders, Folders, NestedFolders
from vitlora.data.layouts.label_studio import LabelStudio
from vitlora.data.layouts.reading import Layout, LayoutOptions, Place
from vitlora.errors import DataError, UsageError, a_few, nearest

LAYOUTS: tuple[Layout, ...] = (
    Folders(),
    NestedFolders(),
    ClassFolders(),
    LabelStudio(),
    Cvat(),
    FiftyOne(),
    Coco(),
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
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        ways = " or ".join(f"--data.layout {layout.name} ({layout.what})" for layout in fitting)
        raise DataError(f"{place.root} can be read in several ways; add {ways}")
    found = a_few([*place.others][:5] if place.listing else [], 3)
    raise DataError(
        f"{place.root} holds {len(place.pictures):,} pictures, but no class folders and no table "
        f"that gives them classes (other files: {found}); expected train/ and val/ with a folder "
        "for each class, or class folders, or a table with the columns file and label"
    )
