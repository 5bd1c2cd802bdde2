"""Class folders: ROOT/CLASS/*.jpg, with splits above or below the classes."""

import collections
import dataclasses
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from rsclip_jax.data.sources import IMAGE_SUFFIXES, InputError, Sample, Source, some
from rsclip_jax.data.splits import is_split, usual_name

# Folders, and extensions in archives, that hold the infrared images of pairs.
INFRARED = re.compile(
    r"(.*[ _-])?(ir|nir|tir|swir|mwir|lwir|infrared|thermal)"
    r"([ _-]?(images?|imgs?|data|\d+[ _-]?bits?))*"
)
# Folders of images that are no photographs.
_MASKS = re.compile(
    r"(.*[ _-])?(masks?|annotations?|gt|ground[ _-]?truths?|labels?)([ _-]?(images?|imgs?|data))?"
)
_NO_CLASS = re.compile(r"((jpe?g|png|tiff?)[ _-]?)?(images?|imgs?|data)")
# Files of Sentinel-2 and Landsat that hold one band each.
_BAND = re.compile(r"(.*_)?b(\d\d?|8a)(_\d\dm)?\.(tiff?|jp2)")
_CAPTIONS = (".txt", ".json", ".caption")
_Folder = tuple[str, ...]  # its path below the root


def open_folder(
    root: str,
    class_folder: str = "",
    ignore: Sequence[str] | None = None,
    split_names: Mapping[str, str] | None = None,
) -> Source:
    """Open class folders: ROOT/CLASS/*.jpg, ROOT/SPLIT/CLASS/*.jpg or ROOT/CLASS/SPLIT/*.jpg.

    The second or third form is taken if every first or second folder with images is called like a
    split (`splits.is_split`). The label is the name of the class folder, of nested ones the first
    or the last; the id is the path below ROOT. What is no image by its suffix, or hidden, is passed
    over; other files and folders without images are noted.

    Args:
      class_folder: "first", "last"; "": the first, if that tells images apart.
      ignore: folders, and suffixes of captions beside the images (`txt`), that are left out on
        purpose. None: the caller does not mind what is not used.
      split_names: folder -> split (`splits.usual_name`): they are splits, however they are called.

    Raises:
      InputError: ROOT is no directory, or holds no folder; folders of splits lie beside others;
        folders of infrared images or masks; captions beside the images; all images in one first
        folder.
    """
    if not os.path.isdir(root):
        raise InputError(f"--input={root}: no such directory")
    root = os.path.realpath(root)
    top = [entry for entry in _visible(root) if entry.is_dir()]
    if not top:
        raise InputError(f"--input={root} holds no class folders")
    found = _Contents()
    _look(root, (), ignore or (), found)
    folders = [folder for folder in found.images if folder]
    notes = found.notes()
    own = {entry.name for entry in top if not entry.is_symlink()}
    if empty := sorted(own - {folder[0] for folder in folders} - set(ignore or ())):
        notes.append(f"folders without images are not used: {some(empty)}")
    try:
        level = _split_level(folders, split_names or {}, notes)
        if ignore is not None:
            _check(root, found, level, class_folder, ignore)
    except ValueError as error:
        raise InputError(f"--input={root}: {error}") from None

    def samples() -> Iterator[Sample]:
        for position, entry in enumerate(image_entries(root, ignore or ()), start=1):
            name = os.path.relpath(entry.path, root)
            *above, _ = name.split(os.sep)
            sample = Sample(name, position, id=name, image=name)
            if entry.is_dir():
                sample.problem = "link to a directory: not followed"
            if level is not None and len(above) > level:
                sample.split = above.pop(level)
            sample.label = above[-1 if class_folder == "last" else 0] if above else ""
            yield sample

    return Source(samples, found.images.total() + found.links, root, notes=notes)


@dataclasses.dataclass
class _Contents:
    """What lies below a root.

    Attributes:
      images: how many lie in each folder, without those below it.
      bands: how many of them seem to be single bands of an image.
      links: how many links to directories there are.
      captions: files beside an image that has their name, by suffix.
      others: files that are neither, by suffix.
      left_out: files in folders left out on purpose, by the name of the folder.
    """

    images: collections.Counter[_Folder] = dataclasses.field(default_factory=collections.Counter)
    bands: int = 0
    links: int = 0
    captions: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    others: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    left_out: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def notes(self) -> list[str]:
        """Tell what is not used."""
        notes = []
        others = self.captions + self.others
        if others:
            kinds = [
                f"{count:,} {kind or 'without suffix'}" for kind, count in others.most_common()
            ]
            notes.append(f"files that are no images are not used: {some(kinds)}")
        for name, count in self.left_out.items():
            notes.append(f"{count:,} images in folders {name} are left out (--ignore)")
        return notes


def _look(directory: str, folder: _Folder, ignore: Collection[str], found: _Contents) -> None:
    stems, beside = set(), []
    for entry in _visible(directory):
        stem, suffix = os.path.splitext(entry.name)
        suffix = suffix.lower()
        if entry.is_dir(follow_symlinks=False):
            if entry.name in ignore:
                found.left_out[entry.name] += sum(1 for _ in image_entries(entry.path))
            else:
                _look(entry.path, (*folder, entry.name), ignore, found)
        elif entry.is_dir():
            found.links += 1
        elif suffix in IMAGE_SUFFIXES:
            stems.add(stem)
            found.images[folder] += 1
            found.bands += bool(_BAND.fullmatch(entry.name.lower()))
        else:
            beside.append((stem, suffix))
    for stem, suffix in beside:
        kind = found.captions if suffix in _CAPTIONS and stem in stems else found.others
        kind[suffix] += 1


def _split_level(
    folders: Sequence[_Folder], given: Mapping[str, str], notes: list[str]
) -> int | None:
    """Return which of its folders names the split of every image: 0, 1, or None; add notes.

    Raises:
      ValueError: folders of several splits, or of one that has classes, lie beside others.
    """
    for level in (0, 1):
        names = {folder[level] if len(folder) > level else "" for folder in folders}
        splits = sorted(name for name in names if name in given or is_split(name))
        others = [name or "images without a folder" for name in sorted(names - set(splits))]
        if splits and not others:
            if level:
                notes.append(f"below the class folders, {some(splits)} are taken for splits")
            return level
        nested = any(len(of) > level + 1 and of[level] in splits for of in folders)
        if nested or len({usual_name(name, given) for name in splits}) > 1:
            raise ValueError(
                f"folders {some(splits)} seem to be splits, but {some(others)} lie beside them: "
                "leave these out with --ignore=FOLDER, name their split with "
                "--split_names=FOLDER=train, move them elsewhere, or rename a class that is called "
                "like a split"
            )
        if splits:  # a single one without classes may well be a class, such as train
            notes.append(
                f"folders {some(splits)} are not taken for splits, because {some(others)} lie "
                "beside them: leave these out (--ignore) if they are no classes"
            )
    return None


def _check(
    root: str, found: _Contents, level: int | None, class_folder: str, ignore: Collection[str]
) -> None:
    """Raise ValueError if captions or pairs would be lost, masks be read, or all have one class."""
    for suffix, count in found.captions.items():
        kind = suffix.removeprefix(".")
        if kind not in ignore:
            raise ValueError(
                f"captions seem to lie beside the images ({count:,} files {suffix}, as img2dataset "
                "writes them), and class folders have none: pack them (tar --sort=name -cf "
                "shard.tar FOLDER) and use --format=webdataset, or leave them out with "
                f"--ignore={kind}"
            )
    names = {name for folder in found.images for name in folder}
    if infrared := sorted(name for name in names if INFRARED.fullmatch(name.lower())):
        raise ValueError(
            f"folders {some(infrared)} seem to hold infrared images, and class folders have no "
            "pairs: list these in a table (--format=jsonl, rows such as "
            '{"image": "rgb/1.jpg", "ir": "nir/1.jpg", "label": "port"}), '
            f"or leave the folders out with --ignore={','.join(infrared)}"
        )
    if masks := sorted(name for name in names if _MASKS.fullmatch(name.lower())):
        raise ValueError(
            f"folders {some(masks)} seem to hold masks or annotations, which would be read as "
            f"images: leave them out with --ignore={','.join(masks)}, or rename them"
        )
    if not found.images:
        kinds = ", ".join(sorted(found.others)) or "none"
        raise ValueError(f"no image that can be read (other files: {kinds})")
    if found.bands == found.images.total():
        raise ValueError(
            "all images seem to be single bands (such as B04.tif), each of which would be a "
            "sample: put the red, green and blue ones of an image in one file first "
            "(gdal_merge.py -separate)"
        )
    classes = [tuple(n for at, n in enumerate(f) if at != level) for f in found.images if f]
    first = {of[:1] for of in classes}
    if not class_folder and all(not of or _NO_CLASS.fullmatch(of[-1].lower()) for of in classes):
        raise ValueError(
            "no image lies in a folder that names a class: ROOT/CLASS/*.jpg or "
            "ROOT/train/CLASS/*.jpg is expected. Images with captions or labels in a table are "
            "--format=jsonl, csv or json"
        )
    if not class_folder and len(first) == 1 and len(set(classes)) > 1:
        raise ValueError(
            f"all images lie in one folder {classes[0][0]!r}, which would be their class: name the "
            "one above the class folders with --input, or use --class_folder=last (or first, if it "
            "is the class)"
        )


def _visible(directory: str) -> list[os.DirEntry]:
    with os.scandir(directory) as entries:
        return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)


def image_entries(directory: str, ignore: Collection[str] = ()) -> Iterator[os.DirEntry]:
    """Walk the images below a directory in the order of their names.

    Links to directories are yielded, not followed: they may lead outside, or round in circles.

    Args:
      ignore: names of folders that are left out.
    """
    for entry in _visible(directory):
        if entry.is_dir(follow_symlinks=False):
            if entry.name not in ignore:
                yield from image_entries(entry.path, ignore)
        elif entry.is_dir() or os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
            yield entry
