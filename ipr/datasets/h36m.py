"""Human3.6M (http://vision.imar.ro/human3.6m), in the layouts that projects made of it.

=============  ==========================================================================================
matlab_meta    annot/<video>/matlab_meta.txt, images/: the ECCV 2018 code's
json           annotations/Human36M_subject<n>_{data,camera,joint_3d}.json, images/: 3DMPPE_POSENET's
mmpose         annotation_body3d/{fps50,fps10}/h36m_{train,test}.npz, cameras.pkl, images/: mmpose's
cache          HM36_<split>_cache/HM36_<split>_*_keypoint_*db_*.pkl, images/: cache of the ECCV 2018 code
=============  ==========================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ipr.config import require
from ipr.datasets._h36m import assemble, cache, json_triple, matlab_meta, mmpose
from ipr.datasets._h36m.clips import DAMAGED, SPLITS, Clip, Request
from ipr.datasets._options import check_detector, check_split
from ipr.types import BoxRule, PoseTable

BOX_RULES = {
    "rect3d": BoxRule(pad=1.0, fit="square"),  # the 2000 mm square around the pelvis, projected ("gt_db")
    "joints": BoxRule(pad=1.25),  # bounds of the visible joints ("jnt_bbox_db")
    "detector": BoxRule(pad=1.25),  # detection/<detector>/kpts_bbox.pkl ("dt_db")
    "full": BoxRule(pad=1.0, fit="height"),  # no box: centre (500, 500), height 1000 px ("org_img")
}
# Where there are several, the first is read. The cache was made of matlab_meta.txt, and may lie beside it.
LAYOUTS = {"matlab_meta": matlab_meta, "json": json_triple, "mmpose": mmpose, "cache": cache}
_TOGETHER = {"matlab_meta", "cache"}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Subjects 1, 5, 6, 7, 8 train and 9, 11 validate.

    Frames per video: 200 of ``train``, 40 of ``valid`` and ``act_NN``, 10 of ``validmin``, drawn by ``seed``;
    all of ``*full``; every 2nd or 10th of ``*sample2`` and ``*sample10``. In the table's groups they count
    from 0; the files' names count from 1.
    """

    root: str = "hm36"  # holds images/ and what the layout has; relative to data.root
    split: str = "train"
    boxes: Literal["rect3d", "joints", "detector", "full"] = "rect3d"
    detector: str = ""  # folder under detection/, with boxes: detector
    seed: int = 0  # of the frames that are drawn
    layout: Literal["auto", "matlab_meta", "json", "mmpose", "cache"] = "auto"
    # Project with the lens's distortion, 0.2 to 0.8 px of the image; the ECCV 2018 code leaves it out.
    distortion: bool = False
    damaged: Literal["leave out", "keep"] = "leave out"  # S9's sequences with labels beside the person

    def __post_init__(self) -> None:
        check_split(self.split, tuple(SPLITS))
        check_detector(self.boxes, self.detector)
        require(0 <= self.seed < 2**63, "seed", self.seed, "in 0..2^63 - 1")

    @property
    def box_rule(self) -> BoxRule:
        return BOX_RULES[self.boxes]

    def sources(self) -> list[Path]:
        """The files that decide the table: annotations and detections, not the images."""
        files = LAYOUTS[self._layout()].sources(self._request)
        if self.boxes == "detector":
            files.append(assemble.detector_file(Path(self.root), self.split, self.detector))
        return files

    def build(self) -> PoseTable:
        """ValueError, naming a path, where the files are of no known layout, incomplete or damaged."""
        layout = self._layout()
        clips, said = LAYOUTS[layout].read(self._request)
        if self.distortion and any(clip.distortion is None for clip in clips):
            raise ValueError(
                f"distortion: true given, but the layout {layout} of {self.root} does not have the lenses' k "
                "and p: set it to false, or give the matlab_meta.txt files or mmpose's cameras.pkl"
            )
        boxes_xywh = None
        if self.boxes == "detector":
            path = assemble.detector_file(Path(self.root), self.split, self.detector)
            boxes_xywh = assemble.detections(path, clips)
        kept = [self.damaged == "keep" or clip.video[:3] not in DAMAGED for clip in clips]
        if boxes_xywh is not None:
            rows = [keep for clip, keep in zip(clips, kept, strict=True) for _ in clip.frames]
            boxes_xywh = boxes_xywh[rows]
        out = [clip for clip, keep in zip(clips, kept, strict=True) if not keep]
        clips = [clip for clip, keep in zip(clips, kept, strict=True) if keep]
        if not clips:
            raise ValueError(f"{self.root}: the split {self.split} has no rows in the layout {layout}")
        assemble.require_images(clips, Path(self.root))
        parts = (f"Human3.6M {self.split} in the layout {layout} at {self.root}", said, _left_out(out, clips))
        return assemble.assemble(
            clips,
            boxes_xywh,
            boxes=self.boxes,
            rule=self.box_rule,
            lens=self.distortion,
            description="; ".join(part for part in parts if part),
        )

    @property
    def _request(self) -> Request:
        return Request(Path(self.root), self.split, self.seed, self.boxes)

    def _layout(self) -> str:
        root = Path(self.root)
        found = [name for name, layout in LAYOUTS.items() if layout.present(root)]
        if self.layout != "auto":
            if self.layout in found:
                return self.layout
            raise ValueError(
                f"{root}: has no {LAYOUTS[self.layout].HOLDS}, which layout: {self.layout} needs"
                + (f"; it has the layout {' and '.join(found)}" if found else _hint(root))
            )
        if not found:
            known = "; ".join(f"{name}: {layout.HOLDS}" for name, layout in LAYOUTS.items())
            raise ValueError(f"{root}: {_what(root)}, need one of {known}{_hint(root)}")
        if len(found) > 1 and set(found) != _TOGETHER:
            raise ValueError(f"{root}: has the layouts {' and '.join(found)}: say which with layout: NAME")
        return found[0]


def _left_out(out: list[Clip], clips: list[Clip]) -> str:
    if not out:
        return ""
    videos = sorted({"s_{:02d}_act_{:02d}_subact_{:02d}".format(*clip.video[:3]) for clip in out})
    rows, more = (sum(len(clip.frames) for clip in part) for part in (out, clips))
    return f"{rows} of {rows + more} rows left out, labels beside the person: {', '.join(videos)}"


def _what(root: Path) -> str:
    if not root.exists():
        parent = next(folder for folder in root.absolute().parents if folder.exists())
        return f"there is no such folder ({parent} is there)"
    if not root.is_dir():
        return "is no folder"
    inside = sorted(path.name for path in root.iterdir())
    return f"holds {', '.join(inside[:5]) or 'nothing'}{' ...' if len(inside) > 5 else ''}"


def _hint(root: Path) -> str:
    """Where else a layout is: one or two levels up or down."""
    below = _folders(root)
    for folder in [
        *[*root.absolute().parents][:2],
        *below,
        *(path for one in below for path in _folders(one)),
    ]:
        try:
            if any(layout.present(folder) for layout in LAYOUTS.values()):
                return f"; {folder} has it: set root to that"
        except OSError:  # not ours to look into
            continue
    return ""


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(folder for folder in path.iterdir() if folder.is_dir())[:100]
    except OSError:
        return []
