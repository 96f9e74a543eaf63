"""Public files that vitlora downloads: where they are, and what they must be."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class File:
    """A file at a public address that cannot change: the URL pins a commit or a version.

    Attributes:
        url: Where it is; the last part is its name.
        size: In bytes.
        sha256: Of its content, in hexadecimal.
    """

    url: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """Returns the last part of the URL."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Dataset:
    """A public dataset: an archive of class folders, and the authors' own split if there is one.

    Attributes:
        about: Its name and what it holds, in a line.
        authors: Who made it.
        licence: Under what terms it may be used.
        home: The page to read and to cite.
        classes: The class folders to take.
        archive: A ZIP file; the pictures unpacked are about as large.
        inside: Folder in the archive that holds the class folders.
        lists: Split -> a text file, each line starting with the name of a picture. Empty: class
            folders alone, to be split by seed.
    """

    about: str
    authors: str
    licence: str
    home: str
    classes: tuple[str, ...]
    archive: File
    inside: str
    lists: Mapping[str, File] = field(default_factory=dict)

    @property
    def files(self) -> tuple[File, ...]:
        """Returns everything to download."""
        return (self.archive, *self.lists.values())


_TRASHNET = "https://raw.githubusercontent.com/garythung/trashnet/6fa2b878c6c1b4304b91109070ce0edf9279bb31/data"

# The archive's size and SHA-256 come from its authors' commit on the hub (Git LFS); those of the
# lists were computed from the authors' repository at the commit in the URL.
DATASETS: dict[str, Dataset] = {
    "trashnet": Dataset(
        about="TrashNet: 2,527 photos of waste on a white board, 512 x 384 pixels, 6 classes",
        authors="Gary Thung and Mindy Yang",
        licence="MIT, copyright (c) 2017 Gary Thung; the authors ask to cite their repository",
        home="https://github.com/garythung/trashnet",
        classes=("cardboard", "glass", "metal", "paper", "plastic", "trash"),
        archive=File(
            "https://huggingface.co/datasets/garythung/trashnet/resolve/94cd17ebfd6702bf62281d3c89f22ff649815b46/dataset-resized.zip",
            42_834_870,
            "c060e8abfe5d6de0578ca15be1ed8ad0794a865d333c3473d53d1d9ad6e38b8c",
        ),
        inside="dataset-resized",
        lists={
            "train": File(
                f"{_TRASHNET}/one-indexed-files-notrash_train.txt",
                27_912,
                "420971a4248b42b07a741ef277059d92ded0c559cae8960c6a488e9c316ff789",
            ),
            "val": File(
                f"{_TRASHNET}/one-indexed-files-notrash_val.txt",
                5_147,
                "a6c01936e4a4adce41e8da776db39b366d1db46acf07f63215bbe24709081340",
            ),
            "test": File(
                f"{_TRASHNET}/one-indexed-files-notrash_test.txt",
                6_774,
                "a8cc4e520e4676c6e1bd6346d51a101f80e468763a36f2818ed4e32abb05bb79",
            ),
        },
    ),
}


# What runs a network in a browser, as its npm package has it (MIT, copyright (c) Microsoft). The
# package holds 130 MB of other builds, so its files come one by one from a public mirror of npm.
RUNTIME = "onnxruntime-web@1.30.0"
_RUNTIME = f"https://cdn.jsdelivr.net/npm/{RUNTIME}/dist"
RUNTIME_FILES = {
    "script": File(
        f"{_RUNTIME}/ort.wasm.bundle.min.mjs",
        73_054,
        "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    ),
    "program": File(
        f"{_RUNTIME}/ort-wasm-simd-threaded.wasm",
        14_239_897,
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    ),
}
