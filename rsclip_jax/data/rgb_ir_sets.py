"""Published sets of RGB-infrared pairs, in the layouts in which they are downloaded and unpacked.

A set is an entry of SETS: which files are its RGB and which its infrared images, what the two of a
pair have in common, and which text files name its splits. Everything else is `open_pairs`.
"""

import dataclasses
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import simplejpeg

from rsclip_jax import host
from rsclip_jax.data import images
from rsclip_jax.data.folders import image_entries
from rsclip_jax.data.image_check import JPEG_QUALITY
from rsclip_jax.data.sources import InputError, Sample, Source

FOLDER = r"(?:(?P<folder>.*?)/)?"  # what lies above, nothing that this set's names contain
SPLIT = r"(?P<split>train|val|test)"
NAME = r"(?P<name>[^/]+)"
UNLISTED = "in no split list"
CORRUPTED = "listed as corrupted"


@dataclasses.dataclass(frozen=True)
class PairSet:
    """One published data set; patterns ignore case and match whole paths below ROOT.

    Attributes:
      title: its name.
      layout: what is expected below ROOT, for messages.
      rgb, ir: patterns of image paths without their suffix, with groups `name`, which the two of a
        pair share, `folder` for what lies above, and `split` where folders tell it. Without `ir`
        the set is thermal only, and its images stand for both.
      lists: patterns of the text files, if any, that name the RGB and the infrared images of each
        `split`, one a line; after a comma may stand what the two of a pair share instead of the
        name.
      may_lack_splits: whether a copy that tells no splits is one all the same.
      corrupted: pattern of text files that name the pairs to leave out.
      one_copy: more than one `folder` is an error: the same scenes, or the same names, twice.
      edit: see `Source`.
      verified: facts above, and the public code or documents that state them.
      recalled: facts above that were not found stated anywhere public.
    """

    title: str
    layout: str
    rgb: str
    ir: str = ""
    lists: tuple[str, str] | None = None
    may_lack_splits: bool = False
    corrupted: str = ""
    one_copy: bool = False
    edit: Callable[[bytes], bytes] | None = None
    verified: tuple[str, ...] = ()
    recalled: tuple[str, ...] = ()


def without_border(data: bytes) -> bytes:
    """Cut DroneVehicle's white border of 100 px off an encoded image.

    Returns:
      640 x 512 px: as JPEG of quality 95, or `data` itself if it has this size already.

    Raises:
      ValueError: an image of another size.
    """
    height, width = images.dimensions(data)
    if (width, height) == (640, 512):
        return data
    if (width, height) != (840, 712):
        raise ValueError(
            f"neither with nor without DroneVehicle's border: {width} x {height} pixels, "
            "expected 840 x 712 or 640 x 512"
        )
    inside = images.decode(data)[100:-100, 100:-100]
    return simplejpeg.encode_jpeg(inside.copy(), quality=JPEG_QUALITY)


SETS = {
    "cart": PairSet(
        "Caltech Aerial RGB-T",
        "color/*_eo-*.jpg and thermal8/*_thermal-*.jpg of labeled_rgbt_pairs.zip, and, copied "
        "there from splits/rgbt_splits of github.com/aerorobotics/caltech-aerial-rgbt-dataset, "
        "{rgb,thermal8}_{train,val,test}.txt",
        # The color images of labeled_thermal_singles are not registered with the thermal ones.
        rgb=rf"(?!.*labeled_thermal_singles){FOLDER}color/{NAME}",
        ir=rf"(?!.*labeled_thermal_singles){FOLDER}thermal8/{NAME}",
        lists=(rf"(?:.*/)?rgb_{SPLIT}\.txt", rf"(?:.*/)?thermal8_{SPLIT}\.txt"),
        one_copy=True,
        verified=(
            "file names, lines of the lists, 279 of them in the test split: splits/rgbt_splits of "
            "the repository named above",
            "folder labeled_rgbt_pairs: its README.md",
        ),
    ),
    "dronevehicle": PairSet(
        "DroneVehicle",
        "{train,val,test}/{train,val,test}img and ...imgr, with the same file names",
        rgb=rf"{FOLDER}(?:(?:train|val|test)/)?{SPLIT}img/{NAME}",
        ir=rf"{FOLDER}(?:(?:train|val|test)/)?{SPLIT}imgr/{NAME}",
        edit=without_border,
        verified=(
            "folders, equal names: trees in third-party loaders of the set",
            "border: weiweiboni2/data_processing README.md",
        ),
    ),
    "aviid": PairSet(
        "AVIID",
        "trainA, testA (visible) and trainB, testB (infrared), or [train|test]/visible and "
        "[train|test]/infrared, with the same file names; a folder for each of AVIID-1, -2, -3",
        rgb=rf"{FOLDER}(?:{SPLIT}(?:A|/vis(?:ible)?|/rgb)|vis(?:ible)?|rgb)/{NAME}",
        ir=rf"{FOLDER}(?:{SPLIT}(?:B|/infrared|/ir)|infrared|ir)/{NAME}",
        may_lack_splits=True,
        verified=("trainA, trainB, testA, testB with equal names: ThermalGen's preprocessing",),
        recalled=(
            "folders AVIID-1, AVIID-2, AVIID-3 as the archive has them",
            "the layout with visible and infrared folders",
        ),
    ),
    "vedai": PairSet(
        "VEDAI",
        "Vehicules512 or Vehicules1024 with 00000000_co.png and 00000000_ir.png; Annotations512 or "
        "Annotations1024 with fold01.txt and fold01test.txt",
        rgb=rf"{FOLDER}(?P<name>\d+)_co",
        ir=rf"{FOLDER}(?P<name>\d+)_ir",
        # Ten folds of a cross-validation: the first one is what is trained and tested on.
        lists=(r"(?:.*/)?fold01(?P<split>|test)\.txt",) * 2,
        may_lack_splits=True,
        one_copy=True,
        verified=(
            "folders and names: downloads.greyc.fr/vedai as third-party loaders read it",
            "fold01.txt in the Annotations folders, one eight-digit number a line: the same",
        ),
        recalled=("that all images stand in the first fold",),
    ),
    "llvip": PairSet(
        "LLVIP",
        "visible/{train,test} and infrared/{train,test}, with the same file names",
        rgb=rf"{FOLDER}visible/{SPLIT}/{NAME}",
        ir=rf"{FOLDER}infrared/{SPLIT}/{NAME}",
        verified=("folders and names: bupt-ai-cz/LLVIP README.md",),
    ),
    "hit_uav": PairSet(
        "HIT-UAV",
        "normal_json/{train,val,test}, or the YOLO form's images/{train,val,test}",
        rgb=rf"(?P<folder>(?:.*/)?(?:normal_json|images))/{SPLIT}/{NAME}",
        one_copy=True,
        verified=(
            "normal_json: suojiashun/HIT-UAV-Infrared-Thermal-Dataset",
            "images/{train,val,test}: third-party loaders of the Kaggle copy",
        ),
    ),
    "m3fd": PairSet(
        "M3FD",
        "Vis and Ir with the same file names, and meta/{train,val,test}.txt where there are splits",
        rgb=rf"{FOLDER}vis?/{NAME}",
        ir=rf"{FOLDER}ir/{NAME}",
        lists=(rf"(?:.*/)?meta/{SPLIT}\.txt",) * 2,
        may_lack_splits=True,
        one_copy=True,  # M3FD_Fusion has names of its own that M3FD_Detection uses too
        verified=(
            "Vis, Ir, Annotation: third-party loaders of M3FD_Detection.zip",
            "meta/{train,val}.txt, written by TarDAL's scripts: third-party converters",
        ),
        recalled=("that the archive itself has no split lists",),
    ),
    "kust4k": PairSet(
        "Kust4K",
        "RGB and TIR with the same file names, train.txt, val.txt, test.txt, and the lists of "
        "corrupted frames broke_RGB.txt and broke_TIR.txt",
        rgb=rf"{FOLDER}rgb/{NAME}",
        ir=rf"{FOLDER}tir/{NAME}",
        lists=(rf"(?:.*/)?{SPLIT}\.txt",) * 2,
        corrupted=r"(?:.*/)?broken?_.*\.txt",
        verified=(
            "files of the figshare article 29476610: notes and downloaders of third parties",
            "flat archives, equal names in RGB and TIR: the same",
            "broken_in_{split}_{day,night}_{count}.txt beside broke_{RGB,TIR}.txt: the same",
        ),
        recalled=("whether lines of the lists carry a suffix: both are read",),
    ),
}


class _File(NamedTuple):
    path: str  # below ROOT
    folder: str
    split: str  # "" if the folders do not tell
    name: str


class _Listed(NamedTuple):
    split: str
    key: str  # what the two of a pair share
    where: str


@dataclasses.dataclass
class _Pair:
    name: str
    rgb: list[str] = dataclasses.field(default_factory=list)
    ir: list[str] = dataclasses.field(default_factory=list)


def open_pairs(name: str, root: str) -> Source:
    """Open one of SETS below `root`; captions and labels are none of its business.

    A file without its partner, or one that the set's own lists leave out, is a sample with a
    `problem`. The id is the split and the name of the RGB image, below the folder of a subset if
    there are several. Splits are the published ones; without lists there are none.

    Raises:
      InputError: `root` is no directory, or not laid out like this set.
    """
    known = SETS[name]
    if not os.path.isdir(root):
        raise InputError(f"--input={root}: no such directory")
    root = os.path.realpath(root)
    rgb_files = _find(known, "rgb", root)
    ir_files = _find(known, "ir", root) if known.ir else rgb_files
    if len({f.folder for f in rgb_files}) == 1 == len({f.folder for f in ir_files}):
        # Whatever each lies in: archives of one modality are unpacked one beside the other.
        rgb_files, ir_files = ([f._replace(folder="") for f in s] for s in (rgb_files, ir_files))
    lists = _read_lists(known, root)
    corrupted = _corrupted(known, root)
    pairs: dict[tuple[str, str, str], _Pair] = {}
    for side, files in (("rgb", rgb_files), ("ir", ir_files)):
        for file in files:
            key, split = file.name.casefold(), file.split
            if lists:
                split, key, _ = lists[side].get(key, _Listed("", key, ""))
            pair = pairs.setdefault((file.folder, split, key), _Pair(file.name))
            getattr(pair, side).append(file.path)
    found = {(split, key) for _, split, key in pairs}
    listed = {} if not lists else {(e.split, e.key): e for s in lists.values() for e in s.values()}
    absent = [listed[k] for k in sorted(listed.keys() - found) if k[1] not in corrupted]

    def samples() -> Iterator[Sample]:
        for position, ((folder, split, key), pair) in enumerate(pairs.items(), start=1):
            sample = Sample((pair.rgb or pair.ir)[0], position, split=split, source=name)
            sample.id = "/".join(filter(None, (folder, split, pair.name)))
            sample.image, sample.ir = (paths[0] if paths else "" for paths in (pair.rgb, pair.ir))
            if key in corrupted:
                sample.problem = f"{CORRUPTED}: {corrupted[key]}"
            elif lists and not split:
                sample.problem = UNLISTED
            elif not pair.rgb or not pair.ir:
                sample.problem = f"no {'infrared' if pair.rgb else 'RGB'} image: {sample.where!r}"
            elif several := [paths for paths in (pair.rgb, pair.ir) if len(paths) > 1]:
                sample.problem = f"several files of one name: {', '.join(several[0])}"
            yield sample
        for position, entry in enumerate(absent, start=len(pairs) + 1):
            yield Sample(entry.where, position, entry.key, problem=f"no images: {entry.key!r}")

    return Source(
        samples,
        len(pairs) + len(absent),
        root,
        needs_text=False,
        expected=frozenset({UNLISTED, CORRUPTED}),
        edit=known.edit,
    )


def _find(known: PairSet, side: str, root: str) -> list[_File]:
    """Find the images of one side.

    Raises:
      InputError: there are none, or copies of the same scenes in several folders.
    """
    pattern = re.compile(getattr(known, side), re.IGNORECASE)
    # ROOT's own name may be one that the pattern asks for: --input=HIT-UAV/normal_json.
    own = os.path.basename(root)
    files = []
    for path in _below(root):
        if (match := pattern.fullmatch(os.path.splitext(f"{own}/{path}")[0])) is None:
            continue
        part = {"folder": "", "split": ""} | {k: v for k, v in match.groupdict().items() if v}
        folder = part["folder"].removeprefix(own).lstrip("/")
        files.append(_File(path, folder, part["split"].lower(), part["name"]))
    if not files:
        kind = {"rgb": "RGB", "ir": "infrared"}[side] if known.ir else "thermal"
        raise InputError(
            f"--input={root} holds no {kind} images of {known.title}. Expected: {known.layout}. "
            f"There: {_what_is_in(root)}"
        )
    folders = sorted({file.folder or "." for file in files})
    if known.one_copy and len(folders) > 1:
        raise InputError(
            f"--input={root} holds {known.title} more than once, in {', '.join(folders)}. "
            "Give a directory with one of them, and with the lists of its splits if it has any"
        )
    return files


def _below(root: str) -> Iterator[str]:
    """Yield the paths of images below ROOT, with forward slashes; links are not followed."""
    for entry in image_entries(root):
        if not entry.is_dir():
            yield os.path.relpath(entry.path, root).replace(os.sep, "/")


def _read_lists(known: PairSet, root: str) -> dict[str, dict[str, _Listed]]:
    """Read the lists of both sides; nothing if there are none and none are needed.

    Raises:
      InputError: they are needed, contradict one another, or name only one side of a split.
    """
    if known.lists is None:
        return {}
    lists: dict[str, dict[str, _Listed]] = {}
    for side, pattern in zip(("rgb", "ir"), known.lists, strict=True):
        entries = lists[side] = {}
        for path, match in _texts(pattern, root):
            split = match["split"].lower() or "train"
            for name, key in _lines(root, path):
                entry = entries.setdefault(name, _Listed(split, key, path))
                if (entry.split, entry.key) != (split, key):
                    raise InputError(
                        f"--input={root}: {name!r} stands in {entry.where} and otherwise in {path}"
                    )
    splits = {side: {entry.split for entry in lists[side].values()} for side in lists}
    if splits["rgb"] != splits["ir"] or (not known.may_lack_splits and not splits["rgb"]):
        raise InputError(
            f"--input={root} lacks lists of the splits of {known.title}. Expected: {known.layout}. "
            f"There: {_what_is_in(root)}"
        )
    if not splits["rgb"]:
        print(f"{known.title}: no lists of splits, all pairs go to --split", file=sys.stderr)
        return {}
    return lists


def _corrupted(known: PairSet, root: str) -> dict[str, str]:
    """Return the names of pairs to leave out, and the list each stands in."""
    if not known.corrupted:
        return {}
    paths = [path for path, _ in _texts(known.corrupted, root)]
    if not paths:
        raise InputError(
            f"--input={root} lacks the lists of the corrupted pairs of {known.title}, which look "
            f"like any other. Expected: {known.layout}. There: {_what_is_in(root)}"
        )
    return {name: path for path in paths for name, _ in _lines(root, path)}


def _texts(pattern: str, root: str) -> list[tuple[str, re.Match]]:
    found = []
    for directory, folders, files in os.walk(root):
        folders.sort()
        for file in sorted(files):
            path = os.path.relpath(os.path.join(directory, file), root).replace(os.sep, "/")
            if match := re.fullmatch(pattern, path, re.IGNORECASE):
                found.append((path, match))
    return found


def _lines(root: str, path: str) -> Iterator[tuple[str, str]]:
    """Yield, for each line of a list, a name and what its pair shares: bare names, ignoring case.

    Suffixes and folders are dropped: they differ between the lists of one set.

    Raises:
      InputError: the list is a pipe, a device or a directory.
    """
    try:
        given = host.regular_file(Path(root, path))
    except ValueError as error:
        raise InputError(f"--input={root}: {error}") from error
    with open(given, encoding="utf-8-sig", errors="replace") as file:
        for line in file:
            fields = [field.strip().replace("\\", "/") for field in line.split(",")]
            names = [PurePosixPath(field).stem.casefold() for field in fields if field]
            if names:
                yield names[0], names[-1]


def _what_is_in(root: str, most: int = 8) -> str:
    entries = sorted(os.listdir(root))
    more = f" and {len(entries) - most} more" if len(entries) > most else ""
    return f"{', '.join(entries[:most])}{more}" if entries else "nothing"
