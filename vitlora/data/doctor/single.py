"""What is wrong with, or unusual in, pictures one by one: a table of rules."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from vitlora.data.doctor.finding import Finding, Severity
from vitlora.data.doctor.survey import Picture, Survey

_SMALL = 32  # pixels of the short side
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


def endings(kind: str) -> list[str]:
    """Returns the endings files of a format (Pillow's name) may have, the usual one first."""
    return _ENDINGS.get(kind, "").split()


class _Rule(NamedTuple):
    """What makes a readable picture unusual.

    Attributes:
        kind: As of a finding; so are severity, what and advice.
        is_so: Whether a picture is.
        why: What to say of each.
    """

    kind: str
    severity: Severity
    what: str
    advice: str
    is_so: Callable[[Picture], bool]
    why: Callable[[Picture], str] | None = None


def _is_misnamed(picture: Picture) -> bool:
    """Returns whether a file has another ending than its format; rows of a dataset have none."""
    right = endings(picture.format)
    named = bool(picture.path.suffix) or picture.path.exists()
    return bool(right) and named and picture.path.suffix.lower() not in right


def _size(picture: Picture) -> str:
    return f"{picture.size[0]} x {picture.size[1]}"


_LOOK = "look at them; remove those that do not show their class"
_RULES = (
    _Rule(
        "wrong_ending",
        "warning",
        "pictures whose ending is not that of what they hold",
        "vitlora reads them; other programs may not. Rename them",
        _is_misnamed,
        lambda p: p.format,
    ),
    _Rule(
        "small",
        "warning",
        f"pictures of less than {_SMALL} pixels on a side",
        "they are blown up to the network's size, with nothing to see; use the originals",
        lambda p: min(p.size) < _SMALL,
        _size,
    ),
    _Rule(
        "long",
        "warning",
        f"pictures more than {_LONG} times as long as wide",
        "a centre crop shows a small part; set model.crop_mode border or squash, or crop them",
        lambda p: max(p.size) > _LONG * min(p.size),
        _size,
    ),
    _Rule(
        "mode",
        "note",
        "pictures that are not plain RGB",
        "nothing: vitlora turns them into RGB",
        lambda p: p.mode != "RGB",
        lambda p: _MODES.get(p.mode, "16-bit grey" if p.mode.startswith("I") else p.mode),
    ),
    _Rule(
        "turned",
        "note",
        "pictures that EXIF says to turn",
        "nothing: vitlora turns them upright",
        lambda p: p.turned,
    ),
    _Rule(
        "links",
        "note",
        "pictures that are symbolic links",
        "take care that what they point to moves along with the folder",
        lambda p: p.path.is_symlink(),
    ),
    _Rule("flat", "warning", "pictures of one colour", _LOOK, lambda p: p.contrast < _FLAT),
    _Rule(
        "dark",
        "warning",
        "very dark pictures",
        _LOOK,
        lambda p: p.light < _DARK and p.contrast >= _FLAT,
    ),
    _Rule(
        "bright",
        "warning",
        "very bright pictures",
        _LOOK,
        lambda p: p.light > _BRIGHT and p.contrast >= _FLAT,
    ),
    _Rule(
        "blurred",
        "warning",
        "blurred pictures",
        _LOOK,
        lambda p: p.sharpness < _BLURRED and p.contrast >= _FLAT,
    ),
)


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
    for rule in (*_RULES, _outside(survey)):
        if names := {
            p.name: rule.why(p) if rule.why else "" for p in survey.readable if rule.is_so(p)
        }:
            why = names if rule.why else {}
            yield Finding(rule.kind, rule.severity, rule.what, rule.advice, list(names), why)
    if survey.value_range is not None:
        yield Finding(
            "deep",
            "note",
            survey.depth.to_text(),
            "nothing: fit keeps about the same range, that of the pictures it trains on; "
            "data.value_range sets another",
        )


def _outside(survey: Survey) -> _Rule:
    """Returns the rule for pictures that the folder's range of values does not suit."""
    known = survey.value_range is not None
    return _Rule(
        "outside",
        "warning",
        "pictures whose values lie outside the range of the others, or in a sixteenth of it"
        if known
        else "pictures deeper than 8 bits, while train/ has none",
        "check their depth and camera: one scale cannot suit all of them",
        lambda p: p.print is not None and p.print.outside,
    )
