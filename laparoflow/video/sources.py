"""What of the inputs is read: videos, image sequences, and of every other file why it is not.

The layouts of the labelled sets that ``laparoflow.datasets`` reads are known here by their names: their frames are taken,
their masks and the pictures that repeat a video are not. A pattern takes what it matches in place of these rules.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from laparoflow.files import shown

VIDEO_SUFFIXES = (
    ".mp4", ".avi", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".webm", ".wmv", ".vob", ".ts", ".mts", ".m2ts", ".m2t", ".m2v",
    ".mpv", ".h264", ".264", ".avc", ".h265", ".265", ".hevc", ".mxf", ".dv", ".dif", ".asf", ".flv", ".ogv", ".3gp",
    ".mjpeg", ".mjpg", ".divx", ".mod", ".y4m",
)  # fmt: skip
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")

_MASK_FOLDERS = {"mask", "masks", "groundtruth", "ground_truth", "gt", "segmentation", "segmentations"}
_MASK_FOLDERS |= {"labels", "annotations"}
_MASK_NAME = re.compile(
    r"(.+?)(?:[_-](?:colou?r|watershed|instrument|class))*[_-]"
    r"(?:masks?|gt|groundtruth|seg|segmentation|labels?|class|instrument)",
    re.IGNORECASE,
)
_MASK_VIDEO = re.compile(r"(?:.*[_\W])?(?:segmentations?|masks?|labels?|groundtruth|gt)", re.IGNORECASE)

LINK_AGAIN = "a link to what is read already"
A_CACHE = "a cache of laparoflow"
A_MASK = "a mask by its name or folder; take it with a pattern if it is not"


class VideoError(ValueError):
    """A video or image sequence that cannot be read; the message names the file and what is wrong."""


@dataclass
class Found:
    """Different absolute paths of videos and image folders, and by the reason the files, links and folders not read."""

    sources: list[Path] = field(default_factory=list)
    passed_over: dict[str, list[str]] = field(default_factory=dict)

    def leave(self, reason: str, paths: Iterable[Path]) -> None:
        """Note that paths are not read."""
        for path in paths:
            self.passed_over.setdefault(reason, []).append(shown(path))


def _natural(path: Path) -> list[tuple[int, int | str]]:
    """Sort key by which frame_10 comes after frame_9."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", path.name) if part]


def _matches(path: Path, pattern: str | None) -> bool:
    return pattern is None or path.match(pattern)


def _mask_pictures(pictures: list[Path]) -> set[Path]:
    """Pictures that are named as the masks of others beside them, as frame_80_endo_mask.png is of frame_80_endo.png."""
    stems = {path.stem for path in pictures}
    named = ((path, _MASK_NAME.fullmatch(path.stem)) for path in pictures)
    return {path for path, match in named if match and not stems.isdisjoint({match[1], f"{match[1]}_raw"})}


def images_in(folder: Path, pattern: str | None = None) -> list[Path]:
    """The frames directly in a folder of pictures, in natural order: those that match the pattern, or without one all
    that are not hidden and not masks of others."""
    files = (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."))
    pictures = sorted((path for path in files if path.is_file() and _matches(path, pattern)), key=_natural)
    masks = _mask_pictures(pictures) if pattern is None else set()
    return [path for path in pictures if path not in masks]


def is_cache(folder: Path) -> bool:
    """Whether a folder is a cache that ``prepare`` wrote."""
    header = folder / "cache.json"
    return header.is_file() and '"laparoflow-cache"' in header.read_text(errors="replace")


def _walk(root: Path, found: Found) -> list[tuple[Path, list[Path]]]:
    """Folders below ``root``, itself included, each with its files; links to folders are followed, each folder once."""
    seen: set[str] = set()
    result = []

    def refuse(error: OSError) -> None:
        found.leave(f"cannot be opened: {error.strerror or error}", [Path(error.filename)])

    for place, folders, files in os.walk(root, followlinks=True, onerror=refuse):
        folder = Path(place)
        real = os.path.realpath(place)
        if real in seen or (is_cache(folder) and folder != root):
            found.leave(LINK_AGAIN if real in seen else A_CACHE, [folder])
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        found.leave("hidden", (folder / name for name in [*folders, *sorted(files)] if name.startswith(".")))
        folders[:] = [name for name in folders if not name.startswith(".")]
        visible = [folder / name for name in sorted(files) if not name.startswith(".")]
        found.leave("a link to nothing", (path for path in visible if not path.exists()))
        result.append((folder, [path for path in visible if path.exists()]))
    return result


def _search(root: Path, pattern: str | None, found: Found) -> list[Path]:
    """Videos and image sequences in a folder."""
    folders = _walk(root, found)
    videos: list[Path] = []
    sequences: list[tuple[Path, list[Path]]] = []
    for folder, files in folders:
        in_masks = pattern is None and any(part.lower() in _MASK_FOLDERS for part in folder.relative_to(root).parts)
        known = [path for path in files if path.suffix.lower() in (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES)]
        unknown = "neither a video nor a picture by its ending; name a video itself to have it read"
        found.leave(unknown, sorted(set(files) - set(known)))
        found.leave("does not match the pattern", (path for path in known if not _matches(path, pattern)))
        if in_masks:
            found.leave(A_MASK, known)
            continue
        films = [path for path in known if path.suffix.lower() in VIDEO_SUFFIXES and _matches(path, pattern)]
        real = [path for path in films if pattern or not _MASK_VIDEO.fullmatch(path.stem)]
        films, masks = (real, sorted(set(films) - set(real))) if real else (films, [])
        frames = images_in(folder, pattern)
        pictures = {path for path in known if path.suffix.lower() in IMAGE_SUFFIXES and _matches(path, pattern)}
        found.leave(A_MASK, [*masks, *sorted(pictures - set(frames))])
        videos.extend(films)
        if films and frames:
            found.leave("a picture in a folder of videos; take it with a pattern", frames)
        elif len(frames) == 1:
            found.leave("a single picture makes no sequence", frames)
        elif frames:
            sequences.append((folder, frames))
    filmed = {place / path.stem for path in videos for place in (path.parent, *path.parent.parent.glob("images"))}
    filmed |= {path.parent / "rgb" for path in videos if path.stem == "video_left"}
    for folder, frames in sequences:
        if pattern is None and folder in filmed:
            found.leave("a picture of a video that is read, by its folder's name", frames)
        else:
            videos.append(folder)
    return sorted(videos)


def find_sources(inputs: list[Path], pattern: str | None = None) -> Found:
    """Videos and image folders named by the inputs.

    A file that is named is taken as a video, whatever its ending. A folder gives every video and every folder of pictures
    below it, links to folders included, but no masks, no pictures beside videos and nothing of a cache. A ``pattern`` takes
    the files of folders whose path ends so (``*_left.avi``, ``Raw/*.jpg``), masks or not, and no others.

    Raises:
        VideoError: for an input that does not exist or holds neither videos nor image sequences.
    """
    found = Found()
    unique: dict[Path, Path] = {}
    for path in (Path(os.path.abspath(item)) for item in inputs):
        if not path.exists():
            raise VideoError(f"input {shown(path)} does not exist")
        if is_cache(path):
            raise VideoError(f"input {shown(path)} is {A_CACHE}; inputs must be videos or folders of them")
        here = Found()
        sources = _search(path, pattern, here) if path.is_dir() else [path]
        for reason, files in here.passed_over.items():
            found.passed_over.setdefault(reason, []).extend(files)
        if not sources:
            reasons = "; ".join(f"{len(files)} files: {reason}" for reason, files in here.passed_over.items())
            raise VideoError(f"input {shown(path)} holds no video and no image sequence ({reasons or 'it is empty'})")
        for source in sources:  # a link keeps its own name, which may be the only telling one
            first = unique.setdefault(source.resolve(), source)
            if first != source:
                found.leave(LINK_AGAIN, [source])
    found.sources = list(unique.values())
    return found
