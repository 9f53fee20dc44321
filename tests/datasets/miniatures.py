"""Small data sets in the original layouts, written by the tests."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
from PIL import Image

GREYS = (50, 11, 21, 13, 12, 31, 23, 24, 25, 32, 22, 33, 5)


def save(path: Path, pixels: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8), mode).save(path)


def cholecseg8k(root: Path, videos: tuple[int, ...] = (1, 12, 17), frames: int = 4) -> None:
    """Grey values in vertical stripes, one column of 0 and one of 255; the sparse `_endo_mask` is all wrong."""
    rng = np.random.default_rng(0)
    height, width = 12, 2 * len(GREYS) + 2
    for video in videos:
        folder = root / f"video{video:02d}" / f"video{video:02d}_00080"
        for frame in range(80, 80 + frames):
            grey = np.repeat(np.array([0, *GREYS, 255]), [1, *[2] * len(GREYS), 1])
            mask = np.broadcast_to(grey, (height, width))[..., None].repeat(3, axis=2)
            save(folder / f"frame_{frame}_endo.png", rng.integers(0, 255, (height, width, 3)))
            save(folder / f"frame_{frame}_endo_watershed_mask.png", mask)
            save(folder / f"frame_{frame}_endo_mask.png", np.full((height, width, 3), 7))
            save(folder / f"frame_{frame}_endo_color_mask.png", rng.integers(0, 255, (height, width, 3)))


def sznitman(root: Path) -> None:
    """Three frames: two tools, no tool, one tool; the fourth has no picture."""
    lines = {1175: ["10 30 67.5 5.8", "5 7 60.0 4.0"], 1176: [], 1177: ["11 31 66.2 5.9"], 1178: ["1 1 1 1"]}
    text = "<?xml version='1.0' encoding='utf-8'?> \n<tagDocument>\n<numberOfFrames>\n4\n</numberOfFrames>\n"
    for number, tools in lines.items():
        text += f"<frame>\n<PositionIndex> {number} </PositionIndex>\n"
        text += "".join(f"<tool> {line} </tool>\n" for line in tools) + "</frame>\n"
        if number != 1178:
            save(root / "trainData" / f"{number:06d}.jpg", np.full((20, 40, 3), 128))
    (root / "train.xml").write_text(text + "</tagDocument>", encoding="utf-8")


def m2caiseg(root: Path) -> None:
    """trainval holds train 1-3 and validation 4, 10; test holds 20. Each mask is one 8 x 8 block per class."""
    from laparoflow.datasets.m2caiseg import COLOURS_19

    blocks = np.array([*COLOURS_19, (0, 0, 0)], dtype=np.uint8).reshape(4, 5, 3)
    mask = blocks.repeat(8, axis=0).repeat(8, axis=1)
    for part, numbers in {"train": (1, 2, 3), "trainval": (1, 2, 3, 4, 10), "test": (20,)}.items():
        for number in numbers:
            save(root / part / "images" / f"{number}.jpg", np.full(mask.shape, 90))
            save(root / part / "groundtruth" / f"{number}_gt.png", mask)


def sar_rarp50(root: Path) -> None:
    """Two parts of procedure 11, one of 2, one test video; pictures at 10 Hz, masks at 1 Hz."""
    for folder, video in (("train1", "video_11_1"), ("train1", "video_2"), ("train2", "video_11_2"), ("test", "video_41")):
        directory = root / folder / video
        for frame in range(0, 121, 6):
            save(directory / "rgb" / f"{frame:09d}.png", np.full((6, 10, 3), frame))
            if frame % 60 == 0:
                save(directory / "segmentation" / f"{frame:09d}.png", np.arange(10)[None].repeat(6, axis=0))


def endovis15_pose(root: Path) -> None:
    """Train 1 and test 5 with the annotators' paths; unlabelled frames; points without an id; TrackedPoint."""
    home = "/Users/somebody/mData/Tracking_Robotic"

    def point(joint: str, x: float, y: float, **more: object) -> dict[str, object]:
        return {"class": joint, "x": x, "y": y, **more}

    first = [point(f"{joint}Point", 10 * k, 5, id="tool1") for k, joint in enumerate(("LeftClasper", "Head", "Tracked"))]
    first += [point("HeadPoint", 60, 30, id="tool2"), point("EndPoint", 70, 40, id="tool2", occluded=True)]
    train = [
        {"annotations": [], "class": "image", "filename": f"{home}_Training/Training/Dataset1/Raw/img_000001_raw.png"},
        {"annotations": first, "class": "image", "filename": f"{home}_Training/Training/Dataset1/Raw/img_000002_raw.png"},
    ]
    second = [point("HeadPoint", 20, 20, id="tool1"), point("HeadPoint", 60, 20, id="tool2")]
    second += [point("EndPoint", 71, 20), point("ShaftPoint", 25, 20, id="tool1"), point("ShaftPoint", 66, 20)]
    test = [{"annotations": second, "class": "image", "filename": f"{home}_Testing/Dataset5/Raw/img_0001.png"}]
    for part, number, entries in (("train", 1, train), ("test", 5, test)):
        path = root / f"{part}_labels" / f"{part}{number}_labels.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(entries))
    for name in ("img_000001", "img_000002"):
        save(root / "Training" / "Dataset1" / "raw" / f"{name}.png", np.full((50, 80, 3), 1))
    for dataset in (1, 5):
        save(root / "Testing" / f"Dataset{dataset}" / "raw" / "img_0001.png", np.full((50, 80, 3), dataset))


def coco_keypoints(root: Path, part: str = "") -> None:
    """Three pictures: two instruments, a crowd only, none."""
    images = [{"id": k, "file_name": f"case{k % 2}/{k}.png", "width": 20, "height": 10} for k in (1, 2, 3)]
    for image in images:
        save(root / str(image["file_name"]), np.zeros((10, 20, 3)))
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 7, "keypoints": [1, 2, 2, 3, 4, 1], "num_keypoints": 2},
        {"id": 2, "image_id": 1, "category_id": 7, "keypoints": [5, 6, 2, 0, 0, 0], "num_keypoints": 1},
        {"id": 3, "image_id": 2, "category_id": 7, "keypoints": [5, 6, 2, 7, 8, 2], "num_keypoints": 2, "iscrowd": 1},
        {"id": 4, "image_id": 3, "category_id": 8, "keypoints": [], "num_keypoints": 0},
    ]
    categories = [{"id": 7, "name": "tool", "keypoints": ["tip", "wrist"]}, {"id": 8, "name": "organ"}]
    path = root / "annotations" / f"{part}keypoints.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def video(path: Path, pictures: list[np.ndarray], codec: str = "libx264", **options: str) -> None:
    """A video of RGB pictures; H.264 in AVI has B-frames and no presentation times, as the robotic recordings have."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"qp": "1", "bf": "3", "b_strategy": "0"} | options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv444p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture.astype(np.uint8), format="rgb24")))
        container.mux(stream.encode())


def endovis15_robotic(root: Path, frames: int = 11) -> None:
    """Dataset1 with two instruments, Dataset2 with one: frame k is as bright as 20 k, its instruments start at row k."""
    for dataset, masks in ((1, ("Left_Instrument_Segmentation", "Right_Instrument_Segmentation")), (2, ("Segmentation",))):
        folder = root / f"Dataset{dataset}"
        video(folder / "Video.avi", [np.full((32, 48, 3), 20 * k) for k in range(frames)])
        for column, name in zip((0, 24), masks, strict=False):
            pictures = []
            for k in range(frames):
                grey = np.zeros((32, 48, 3))
                grey[k : k + 8, column : column + 8] = 160
                grey[k : k + 8, column + 8 : column + 16] = 70
                pictures.append(grey)
            video(folder / f"{name}.avi", pictures)
        point = {"class": "HeadPoint", "id": "tool1", "x": 9.0}
        entries = [
            {"filename": f"/Raw/img_{k + 1:04d}.png", "class": "image", "annotations": [point | {"y": k}] * (k % 5 == 0)}
            for k in range(frames)
        ]
        (folder / f"test{dataset}_labels.json").write_text(json.dumps(entries))


def endovis15_rigid(root: Path) -> None:
    """Two operations of three stills; the mask has a column of each class."""
    for operation in (1, 2):
        folder = root / f"OP{operation}"
        for number in (1, 2, 10):
            save(folder / "Raw" / f"img_{number:02d}_raw.jpg", np.full((6, 9, 3), number))
            save(folder / "Masks" / f"img_{number:02d}_class.png", np.repeat([0, 160, 70], 3)[None].repeat(6, axis=0))
            save(folder / "Masks" / f"img_{number:02d}_instrument.png", np.full((6, 9), 20))


def coco_segmentation(root: Path) -> None:
    """Two videos of two pictures: a square as polygon, a column as run lengths over it, a category without a mask."""
    images = [{"id": k, "file_name": f"case{k % 2}/{k}.png", "width": 20, "height": 10} for k in (1, 2, 3, 4)]
    for image in images:
        save(root / "images" / str(image["file_name"]), np.zeros((10, 20, 3)))
    square = {"category_id": 5, "segmentation": [[2, 1, 8, 1, 8, 7, 2, 7]]}
    column = {"category_id": 9, "segmentation": {"counts": [4 * 10 + 3, 5, 200 - 48], "size": [10, 20]}}
    annotations = [{"id": 10 * k, "image_id": k} | square for k in (1, 2, 4)]
    annotations += [{"id": 10 * k + 1, "image_id": k, "iscrowd": 1} | column for k in (1, 4)]
    names = {5: "grasper", 7: "unused", 9: "hook"}
    categories = [{"id": number, "name": name, "supercategory": ""} for number, name in names.items()]
    path = root / "annotations" / "instances_default.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
