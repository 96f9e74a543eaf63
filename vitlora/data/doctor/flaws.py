"""What is wrong with a folder's classes and with its pictures one by one."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import PurePath

from vitlora.data.doctor.finding import Finding, Severity
from vitlora.data.doctor.survey import Picture, Survey
from vitlora.data.folder import VAL_FRACTION, Folder, Sample
from vitlora.data.listing import by_ending
from vitlora.errors import DataError

_SMALL = 32  # pixels of the short side
_FEW = 10  # pictures of a class to train on
_UNEVEN = 10  # times the pictures of another class
_LONG = 4  # times as long as wide
_FLAT, _DARK, _BRIGHT = 2.0, 20.0, 245.0  # of grey; TrashNet's photos: contrast 7.5, light 78 - 224
_BLURRED = 0.006  # of sharpness; TrashNet's sharp photos of blank paper: 0.014
_ENDINGS = {
    "JPEG": ".jpg .jpeg .jpe .jfif",
    "PNG": ".png",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "GIF": ".gif",
    "TIFF": ".tif .tiff",
    "PPM": ".ppm .pgm .pnm .pfm",
    "AVIF": ".avif",
    "HEIF": ".heic .heif .hif",
    "JPEG2000": ".jp2 .j2k .jpx .jpf .j2c",
}
_MODES = {
    "L": "grey",
    "1": "black and white",
    "P": "palette",
    "CMYK": "CMYK",
    "YCbCr": "YCbCr",
    "LAB": "Lab",
    "HSV": "HSV",
    "F": "floating-point grey",
    "RGBA": "transparency",
    "LA": "grey with transparency",
    "PA": "palette with transparency",
}


def classes(survey: Survey) -> Iterator[Finding]:
    """Yields what is wrong with the classes and their counts."""
    if len(survey.classes) < 2:
        yield Finding(
            "few_classes",
            "error",
            f"{len(survey.classes)} class folders; training needs 2 or more",
            "give every class a folder of its own, in train/ and val/ or in --data itself",
        )
    counts = Counter((picture.split, picture.label) for picture in survey.readable)
    lacking = {
        _place(split, label): "no readable picture"
        if (split, label) in survey.present
        else "absent"
        for split in survey.splits
        for label in survey.classes
        if not counts[split, label]
    }
    to_train = {p: why for p, why in lacking.items() if not p.startswith(("val/", "test/"))}
    if to_train:
        yield Finding(
            "empty_class",
            "error",
            "classes without a readable picture to train on",
            "add pictures, or leave the class out with data.classes",
            list(to_train),
            to_train,
        )
    if others := {p: why for p, why in lacking.items() if p not in to_train}:
        yield Finding(
            "unmeasured",
            "warning",
            "classes that val/ or test/ has no picture of",
            "add pictures: nothing measures such a class there",
            list(others),
            others,
        )
    if survey.drawn and len(survey.classes) > 1 and not to_train:
        yield from _not_splittable(survey)
    train = {label: counts["train", label] + counts["all", label] for label in survey.classes}
    train = {label: count for label, count in train.items() if count}
    few = {label: f"{count} to train on" for label, count in train.items() if count < _FEW}
    if few and {"train", "all"} & set(survey.splits):
        yield Finding(
            "few_pictures",
            "warning",
            f"classes with fewer than {_FEW} pictures to train on",
            "add pictures: so few say little of a class, and its score is chance",
            list(few),
            few,
        )
    if len(train) > 1 and max(train.values()) > _UNEVEN * min(train.values()):
        most, least = max(train, key=train.__getitem__), min(train, key=train.__getitem__)
        yield Finding(
            "imbalance",
            "warning",
            f"'{most}' has {train[most]} pictures, '{least}' {train[least]}",
            "read macro-F1 rather than accuracy; add pictures of the small classes",
        )
    if survey.splits and not {"train", "all"} & set(survey.splits):
        yield Finding(
            "no_training",
            "error",
            f"{', '.join(f'{split}/' for split in survey.splits)} without train/: fit needs it",
            "add train/, or split anew: vitlora doctor --data DIR --fix OUT",
        )


def _not_splittable(survey: Survey) -> Iterator[Finding]:
    """Yields what ``fit`` would say if it could hold out nothing to validate, in its own words."""
    numbers = {label: number for number, label in enumerate(survey.classes)}
    samples = [
        Sample(picture.path, numbers[picture.label], picture.name)
        for picture in survey.readable
        if picture.split == survey.drawn
    ]
    pool = Folder(survey.root, tuple(survey.classes), {"all": samples})
    try:
        pool.split(val=VAL_FRACTION, test=0.0, seed=0)
    except DataError as error:
        what, _, advice = str(error).partition("; ")
        yield Finding("too_few_to_split", "error", what, advice)


def endings(kind: str) -> list[str]:
    """Returns the endings files of a format (Pillow's name) may have, the usual one first."""
    return _ENDINGS.get(kind, "").split()


def _place(split: str, label: str) -> str:
    return label if split == "all" else f"{split}/{label}"


def files(survey: Survey) -> Iterator[Finding]:
    """Yields what is wrong with, or unusual in, single files."""
    bad = {picture.name: picture.problem for picture in survey.pictures if picture.problem}
    if bad:
        yield Finding(
            "unreadable",
            "error",
            "pictures that cannot be read",
            "mend or remove them; fit stops at them unless data.skip_unreadable is true",
            list(bad),
            bad,
        )
    yield from _those(
        survey,
        _is_misnamed,
        "wrong_ending",
        "warning",
        "pictures whose ending is not that of what they hold",
        "vitlora reads them; other programs may not. Rename them",
        lambda p: p.format,
    )
    yield from _those(
        survey,
        lambda p: min(p.size) < _SMALL,
        "small",
        "warning",
        f"pictures of less than {_SMALL} pixels on a side",
        "they are blown up to the network's size, with nothing to see; use the originals",
        _size,
    )
    yield from _those(
        survey,
        lambda p: max(p.size) > _LONG * min(p.size),
        "long",
        "warning",
        f"pictures more than {_LONG} times as long as wide",
        "a centre crop shows a small part; set model.crop_mode border or squash, or crop them",
        _size,
    )
    yield from _those(
        survey,
        lambda p: p.mode != "RGB",
        "mode",
        "note",
        "pictures that are not plain RGB",
        "nothing: vitlora turns them into RGB",
        lambda p: _MODES.get(p.mode, "16-bit grey" if p.mode.startswith("I") else p.mode),
    )
    if survey.value_range is not None:
        yield Finding(
            "deep",
            "note",
            survey.depth.to_text(),
            "nothing: fit keeps about the same range, that of the pictures it trains on; "
            "data.value_range sets another",
        )
    yield from _those(
        survey,
        lambda p: p.print is not None and p.print.outside,
        "outside",
        "warning",
        "pictures whose values lie outside that range, or in a sixteenth of it"
        if survey.value_range is not None
        else "pictures deeper than 8 bits, of which train/ has none",
        "look whether they are of another depth or camera: one scale cannot suit both",
    )
    yield from _those(
        survey,
        lambda p: p.turned,
        "turned",
        "note",
        "pictures that EXIF says to turn",
        "nothing: vitlora turns them upright",
    )
    yield from _those(
        survey,
        lambda p: p.path.is_symlink(),
        "links",
        "note",
        "pictures that are symbolic links",
        "take care that what they point to moves along with the folder",
    )


def looks(survey: Survey) -> Iterator[Finding]:
    """Yields the pictures that show little."""
    advice = "look at them; remove those that do not show their class"
    ills: list[tuple[str, str, Callable[[Picture], bool]]] = [
        ("flat", "pictures of one colour", lambda p: p.contrast < _FLAT),
        ("dark", "very dark pictures", lambda p: p.light < _DARK),
        ("bright", "very bright pictures", lambda p: p.light > _BRIGHT),
        ("blurred", "blurred pictures", lambda p: p.sharpness < _BLURRED),
    ]
    for kind, what, is_so in ills:
        flat = kind == "flat"
        yield from _those(
            survey,
            lambda p, is_so=is_so, flat=flat: is_so(p) and (flat or p.contrast >= _FLAT),
            kind,
            "warning",
            what,
            advice,
        )


def unused(survey: Survey) -> Iterator[Finding]:
    """Yields what training passes over."""
    leave = "nothing, if they are not meant for training"
    said: list[tuple[str, Severity, str, str]] = [
        ("closed", "error", "folders that may not be read", "give yourself the right to read them"),
        (
            "folders",
            "warning",
            "folders without a picture that is used",
            "rename them if they are splits; move them elsewhere if not",
        ),
        (
            "beside",
            "warning",
            "pictures without a class, which are not used",
            "give them one, or leave them out on purpose",
        ),
        (
            "linked",
            "warning",
            "links to folders that are looked through anyway, or lie above; not followed",
            "remove the links",
        ),
        ("hidden", "note", "hidden files and folders, which are not used", leave),
    ]
    for kind, severity, what, advice in said:
        if names := survey.unused.get(kind):
            yield Finding(kind, severity, what, advice, names)
    if names := survey.unused.get("other"):
        what = f"files passed over ({by_ending(map(PurePath, names))})"
        yield Finding("other", "note", what, leave, names)


def _those(
    survey: Survey,
    is_so: Callable[[Picture], bool],
    kind: str,
    severity: Severity,
    what: str,
    advice: str,
    why: Callable[[Picture], str] | None = None,
) -> Iterator[Finding]:
    """Yields a finding about the readable pictures of which something is so, if there are any."""
    pictures = [picture for picture in survey.readable if is_so(picture)]
    if pictures:
        reasons = {picture.name: why(picture) for picture in pictures} if why else {}
        yield Finding(kind, severity, what, advice, [p.name for p in pictures], reasons)


def _is_misnamed(picture: Picture) -> bool:
    """Returns whether a file has another ending than its format; rows of a dataset have none."""
    right = endings(picture.format)
    named = bool(picture.path.suffix) or picture.path.exists()
    return bool(right) and named and picture.path.suffix.lower() not in right


def _size(picture: Picture) -> str:
    return f"{picture.size[0]} x {picture.size[1]}"
