"""onnxruntime-web, which runs a network in a browser: its files, from wherever they can be had."""

import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vitlora.data.download import difference, download
from vitlora.data.public import RUNTIME, RUNTIME_FILES, File
from vitlora.errors import DataError, UsageError, VitloraError
from vitlora.files import cache_folder, expanded, write_whole
from vitlora.notes import tell

_OTHERWISE = (
    f"on any machine run 'npm pack {RUNTIME}', and pass the file that it writes as --runtime FILE"
)
_PATIENCE = 600  # seconds for npm


@dataclass(frozen=True)
class Runtime:
    """onnxruntime-web, the version that ``data/public.py`` pins.

    Attributes:
        script: Its module of JavaScript.
        program: Its WebAssembly.
    """

    script: str
    program: bytes


def find_runtime(source: str | Path | None = None) -> Runtime:
    """Returns onnxruntime-web, every byte checked; what had to be fetched is kept.

    Args:
        source: Archive of the npm package, or a folder with its files. None looks in the cache,
            then asks npm, or downloads the files where there is no npm.

    Raises:
        UsageError: ``source`` does not exist.
        DataError: A file is missing or not the one expected.
        VitloraError: It cannot be fetched.
    """
    if source is not None:
        return _read(expanded(source))
    kept = cache_folder(RUNTIME)
    if not all(_is_there(file, kept) for file in RUNTIME_FILES.values()):
        _fetch(kept)
    return _read(kept)


def _is_there(file: File, folder: Path) -> bool:
    return (folder / file.name).is_file() and not difference(file, folder / file.name)


def _fetch(kept: Path) -> None:
    """Fills the cache."""
    npm = shutil.which("npm")
    size = sum(file.size for file in RUNTIME_FILES.values())
    where = "npm" if npm else next(iter(RUNTIME_FILES.values())).url.rpartition("/")[0]
    tell(f"fetching {RUNTIME} ({size / 1e6:.0f} MB unpacked) from {where} into {kept} …")
    if npm is None:
        for file in RUNTIME_FILES.values():
            download(file, kept, _OTHERWISE)
        return
    with _packed(npm) as archive, tempfile.TemporaryDirectory() as folder:
        _unpack(archive, Path(folder))
        for file in RUNTIME_FILES.values():
            write_whole(kept / file.name, _checked(file, Path(folder), archive))


@contextmanager
def _packed(npm: str) -> Iterator[Path]:
    """Yields the package's archive, from the registry that npm is set to use.

    Raises:
        VitloraError: npm fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        words = [npm, "pack", RUNTIME, "--loglevel=error", "--pack-destination", folder]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=_PATIENCE)
            said = done.stderr if done.returncode else ""
        except (OSError, subprocess.TimeoutExpired) as error:
            said = str(error)
        archives = list(Path(folder).glob("*.tgz"))
        if len(archives) != 1:
            lines = " ".join(said.split())[:300] or "it wrote no archive"
            raise VitloraError(f"npm could not fetch {RUNTIME} ({lines}); {_OTHERWISE}")
        yield archives[0]


def _read(source: Path) -> Runtime:
    """Returns the files in a folder or an archive.

    Raises:
        UsageError: There is nothing of this name.
        DataError: A file is missing or not the one expected.
    """
    if not source.exists():
        raise UsageError(f"--runtime '{source}': no such file or folder; {_OTHERWISE}")
    with tempfile.TemporaryDirectory() as unpacked:
        folder = source
        if source.is_file():
            folder = Path(unpacked)
            _unpack(source, folder)
        script, program = (_checked(file, folder, source) for file in RUNTIME_FILES.values())
    return Runtime(script.decode(), program)


def _checked(file: File, folder: Path, source: Path) -> bytes:
    places = [folder / file.name, folder / "dist" / file.name]
    place = next((place for place in places if place.is_file()), None)
    wrong = difference(file, place) if place else "is not there"
    if place is None or wrong:
        raise DataError(f"{source}: {file.name} {wrong}; vitlora needs {RUNTIME}: {_OTHERWISE}")
    return place.read_bytes()


def _unpack(archive: Path, folder: Path) -> None:
    """Writes the files that are needed into a folder; sizes are checked first.

    Raises:
        DataError: It is no archive.
    """
    names = {file.name: file.size for file in RUNTIME_FILES.values()}
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive) as opened:
            for member in opened:
                name = member.name.rpartition("/")[2]
                if member.isfile() and names.get(name) == member.size:
                    content = opened.extractfile(member)
                    assert content is not None
                    found[name] = content.read()
    except (tarfile.TarError, EOFError, OSError):
        raise DataError(f"{archive} is torn or no archive of npm; {_OTHERWISE}") from None
    for name, content in found.items():
        (folder / name).write_bytes(content)
