"""Which of the conventions on users' disks a set of cameras follows, decided by what they would see.

Files of one layout differ: position or translation, mm or m (whatever the project's own reader expects).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ipr.datasets._h36m.clips import Clip
from ipr.geometry import cam_to_img, cam_to_world, world_to_cam
from ipr.types import Camera

# What a file's T may be -> the t of R X + t.
TRANSLATIONS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "R (X - T)": lambda R, T: -R @ T,
    "R X + t": lambda R, t: t,
}
_SAMPLE = 50  # frames of each video are enough to see
_MOST_WRONG = 0.5


def mm_per_unit(joints: np.ndarray, where: str) -> float:
    """1 for joints [n, J, 3] in mm, 1000 in m, by the size of the people; ValueError for other sizes."""
    size = float(np.median(np.linalg.norm(np.ptp(joints, axis=1), axis=-1)))
    if 300 <= size <= 5000:
        return 1.0
    if 0.3 <= size <= 5:
        return 1000.0
    raise ValueError(f"{where}: people are {size:.4g} large: need about 1700 (mm) or 1.7 (m)")


def in_mm(position: np.ndarray) -> np.ndarray:
    """A camera's position [3]: Human3.6M's are 4 to 6 m from the room's origin."""
    return position * (1.0 if np.linalg.norm(position) >= 100 else 1000.0)


def lens(k: np.ndarray, p: np.ndarray) -> np.ndarray:
    """[7] of ``types.Camera`` from Human3.6M's k [3] and p [2].

    Its own code multiplies a ray (x, y) by 1 + k1 r^2 + k2 r^4 + k3 r^6 + p1 y + p2 x and adds (p2, p1) r^2:
    half the tangential part of Brown's model, and a prism. This is what its 2-D labels are, to 1e-4 px on the
    four real frames that mmpose ships; Brown's model with the same numbers is 0.01 to 0.07 px off.
    """
    return np.concatenate([k, p / 2, p[::-1] / 2])


def project(clip: Clip, joints: np.ndarray, lens: bool = False) -> np.ndarray:
    """cam [..., J, 3] -> img [..., J, 2] px, with the clip's distortion where ``lens`` says so."""
    distortion = clip.distortion if lens else None
    return cam_to_img(joints, Camera(clip.focal, clip.center, clip.R, clip.t, distortion))


def settle(clips: Sequence[Clip], documented: str, where: str) -> tuple[list[Clip], str]:
    """The clips with joints in their camera's axes, t of R X + t, in mm; and what was decided, for the log.

    Right is what puts the projected joints where the files' boxes are, or, where they have none, the people
    in the picture; where several do, the layout's ``documented`` convention. ValueError, naming a video,
    where none does.
    """
    scale = mm_per_unit(np.concatenate([_sample(clip).joints for clip in clips]), where)
    clips = [clip._replace(joints=clip.joints * scale, t=in_mm(clip.t)) for clip in clips]
    errors = {
        name: np.array([_error(_moved(_sample(clip), name)) for clip in clips]) for name in TRANSLATIONS
    }
    # In tenths, so that chance does not outvote the documentation.
    best = min(TRANSLATIONS, key=lambda name: (round(float(np.mean(errors[name])), 1), name != documented))
    bad = np.flatnonzero(errors[best] > _MOST_WRONG)
    if len(bad):
        by_boxes = clips[bad[0]].boxes_xywh is not None
        raise ValueError(
            f"{where}: the camera of {clips[bad[0]].video} does not "
            + ("project the joints into their boxes" if by_boxes else "see the people")
            + f", with {' or '.join(TRANSLATIONS)}"
            + (f"; nor do those of {len(bad) - 1} more videos" if len(bad) > 1 else "")
            + ": its R, T, f or c is damaged, or of another video"
        )
    kind = "reprojection into the boxes" if clips[0].boxes_xywh is not None else "who is in the picture"
    said = f"cameras follow {best} by {kind}, joints in {'mm' if scale == 1 else 'm'}"
    if best != documented:
        said += f" (not {documented}, as is usual in this layout)"
    return [_moved(clip, best) for clip in clips], said


def _sample(clip: Clip) -> Clip:
    """Some of its frames, from all over it."""
    at = np.linspace(0, len(clip.frames) - 1, min(_SAMPLE, len(clip.frames))).astype(int)
    boxes = None if clip.boxes_xywh is None else clip.boxes_xywh[at]
    return clip._replace(frames=clip.frames[at], joints=clip.joints[at], boxes_xywh=boxes)


def _moved(clip: Clip, translation: str) -> Clip:
    t = TRANSLATIONS[translation](clip.R, clip.t)
    camera = Camera(clip.focal, clip.center, clip.R, t)
    return clip._replace(joints=world_to_cam(clip.joints, camera), t=t)


def _error(clip: Clip) -> float:
    """0 for right cameras: distance from the boxes in their sizes, or share of people not in the picture."""
    in_front = clip.joints[..., 2] > 0
    joints_img = project(clip, np.where(in_front[..., None], clip.joints, 1.0))
    if clip.boxes_xywh is None:
        size = clip.size[::-1] if clip.size is not None else 2 * clip.center
        seen = in_front & (joints_img >= 0).all(-1) & (joints_img <= size).all(-1)
        return 1 - float(seen[:, 0].mean())
    x, y, width, height = clip.boxes_xywh.T
    middle = (joints_img.min(1) + joints_img.max(1)) / 2
    away = np.hypot(middle[:, 0] - x - width / 2, middle[:, 1] - y - height / 2)
    share = np.minimum(away / np.maximum(np.hypot(width, height), 1.0), 1.0)
    return float(np.median(np.where(in_front.all(1), share, 1.0)))


# How a file that has joints in cam gives its cameras -> (R, t) of R X + t. All see one and the same person.
POSES: dict[str, Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    "R' (X - T)": lambda R, T: (R.T, -R.T @ T),
    "R (X - T)": lambda R, T: (R, -R @ T),
    "R X + t": lambda R, t: (R, t),
    "R' X + t": lambda R, t: (R.T, t),
}


def settle_by_agreement(clips: Sequence[Clip], documented: str, where: str) -> tuple[list[Clip], str]:
    """The same for clips whose joints are in cam already: the cameras of a scene must agree where it is.

    With one camera per scene, what is ``documented`` is taken.
    """
    clips = [clip._replace(t=in_mm(clip.t)) for clip in clips]
    scenes: dict[tuple[int, ...], list[Clip]] = {}
    for clip in clips:
        scenes.setdefault(clip.video[:3], []).append(clip)
    apart: dict[str, float] = {}
    pairs = [(group[0], other) for group in scenes.values() for other in group[1:]]
    for name, to_pose in POSES.items():
        distances = [_apart(one, other, to_pose) for one, other in pairs]
        known = [distance for distance in distances if distance is not None]
        if known:
            apart[name] = float(np.median(known))
    best = min(apart, key=lambda name: (round(apart[name], -1), name != documented), default=documented)
    if apart and apart[best] > 100:
        raise ValueError(
            f"{where}: the cameras do not agree: with {' or '.join(POSES)}, at best {best}, two of them see "
            f"the same joint {apart[best]:.0f} mm apart: need R and T of these videos"
        )
    posed = []
    for clip in clips:
        R, t = POSES[best](clip.R, clip.t)
        posed.append(clip._replace(R=R, t=t))
    return posed, f"cameras follow {best}{' by their agreement' if apart else ''}"


def _apart(
    one: Clip, other: Clip, to_pose: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
) -> float | None:
    """Median mm between the two cameras' roots in world; None where they have no frame in common."""
    _, at_one, at_other = np.intersect1d(one.frames, other.frames, return_indices=True)
    if not len(at_one):
        return None
    world = [
        cam_to_world(clip.joints[at[:_SAMPLE], :1], Camera(clip.focal, clip.center, *to_pose(clip.R, clip.t)))
        for clip, at in ((one, at_one), (other, at_other))
    ]
    return float(np.median(np.linalg.norm(world[0] - world[1], axis=-1)))
