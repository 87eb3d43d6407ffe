"""Poses: joint angles by action within anatomical limits, and forward kinematics over all rows at once.

Body axes are x to the person's right, y forward, z up; someone who stands with hanging arms has all angles 0.
Sides are ordered (left, right), and their angles mirror: the same number is the same movement on both.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ipr.datasets._synthetic.draw import Draw

ACTIONS = ("walking", "sitting", "reaching", "crouching", "free")
_ACTION_SHARE = (0.2, 0.17, 0.2, 0.13, 0.3)
_CANDIDATES = 3
_SIDE = np.array([-1.0, 1.0])  # left, right

# Range of each angle in degrees, after the ranges of motion of the American Academy of Orthopaedic Surgeons.
# The plane of elevation of the arm is 0 to the side, 90 to the front.
LIMITS = {
    "pelvis_pitch": (-25, 60),
    "pelvis_roll": (-15, 15),
    "spine_flex": (-25, 65),
    "spine_side": (-30, 30),
    "spine_twist": (-40, 40),
    "neck_flex": (-35, 45),
    "neck_side": (-30, 30),
    "neck_twist": (-65, 65),
    "arm_plane": (-40, 125),
    "arm_elevation": (3, 170),
    "arm_twist": (-60, 70),
    "elbow": (3, 145),
    "wrist": (-50, 60),
    "hip_flex": (-25, 125),
    "hip_spread": (-15, 50),
    "hip_twist": (-25, 40),
    "knee": (2, 150),
    "ankle": (-50, 25),
}
_SIDED = (
    "arm_plane",
    "arm_elevation",
    "arm_twist",
    "elbow",
    "wrist",
    "hip_flex",
    "hip_spread",
    "hip_twist",
    "knee",
)

Angles = dict[str, np.ndarray]  # degrees: [N], and [N, 2] for the names in _SIDED


class Frames(NamedTuple):
    """Rigid segments of a body: each one's rotation to world axes and the joint that it hangs on, in mm."""

    rotation: np.ndarray  # [N, 16, 3, 3]
    origin: np.ndarray  # [N, 16, 3]


FRAMES = (
    "pelvis", "chest", "head", "lumbar",
    "left_upper_arm", "right_upper_arm", "left_forearm", "right_forearm", "left_hand", "right_hand",
    "left_thigh", "right_thigh", "left_shin", "right_shin", "left_foot", "right_foot",
)  # fmt: skip


def draw_actions(seed: int, index: np.ndarray) -> np.ndarray:
    """[N] index into ACTIONS."""
    u = Draw(seed, "action", index).uniform()
    return np.searchsorted(np.cumsum(_ACTION_SHARE)[:-1], u, side="right")


def _walking(d: Draw) -> Angles:
    phase = d.uniform(0, 2 * np.pi)[:, None] + np.array([0.0, np.pi])
    run = d.chance(0.25)[:, None]
    stride = np.where(run, d.uniform(25, 45, 1), d.uniform(12, 30, 1))
    swing = np.where(run, d.uniform(25, 45, 1), d.uniform(5, 35, 1))
    arm = swing * -np.sin(phase) + d.normal(0, 5, 2)
    # The knee folds while its leg swings forward, a quarter period before the hip's most forward angle.
    fold = np.maximum(0, np.cos(phase - 0.35)) ** 1.5
    return {
        "pelvis_pitch": d.normal(2, 4),
        "pelvis_roll": d.normal(0, 3),
        "spine_flex": d.normal(6, 7) + 8 * run[:, 0],
        "spine_side": d.normal(0, 4),
        "spine_twist": 0.25 * swing[:, 0] * np.sin(phase[:, 0]) + d.normal(0, 4),
        "arm_plane": np.where(arm >= 0, 80.0, -35.0) + d.normal(0, 6, 2),
        "arm_elevation": np.hypot(arm, 8) + d.normal(3, 3, 2),
        "arm_twist": d.normal(8, 10, 2),
        "elbow": np.where(run, d.normal(85, 15, 2), d.normal(22, 12, 2)) + np.maximum(0, 0.4 * arm),
        "hip_flex": stride * np.sin(phase) + d.normal(4, 4, 2),
        "hip_spread": d.normal(2, 3, 2),
        "hip_twist": d.normal(4, 5, 2),
        "knee": 6
        + np.where(run, d.uniform(60, 100, 1), d.uniform(35, 60, 1)) * fold
        + np.abs(d.normal(0, 5, 2)),
    }


def _gestures(d: Draw) -> Angles:
    """Arms of someone who talks, points, phones: a mixture per arm, sometimes the same for both."""
    same = d.chance(0.35)[:, None]

    def both(x: np.ndarray) -> np.ndarray:
        return np.where(same, x[:, :1] + 0.15 * (x - x[:, :1]), x)

    kind = both(d.integer(4, 2).astype(float)).round()
    plane = np.select(
        [kind == 0, kind == 1, kind == 2],
        [d.uniform(20, 80, 2), d.uniform(40, 110, 2), d.uniform(-40, 40, 2)],
        d.uniform(-30, 120, 2),
    )
    elevation = np.select(
        [kind == 0, kind == 1, kind == 2],
        [d.uniform(5, 25, 2), d.uniform(20, 80, 2), d.uniform(15, 50, 2)],
        d.uniform(40, 165, 2),
    )
    elbow = np.select(
        [kind == 0, kind == 1, kind == 2],
        [d.uniform(5, 40, 2), d.uniform(40, 140, 2), d.uniform(60, 120, 2)],
        d.uniform(5, 120, 2),
    )
    return {
        "arm_plane": both(plane),
        "arm_elevation": both(elevation),
        "arm_twist": both(np.where(kind == 2, d.uniform(20, 70, 2), d.uniform(-40, 60, 2))),
        "elbow": both(elbow),
    }


def _sitting(d: Draw) -> Angles:
    on_floor = d.chance(0.2)[:, None]
    rest = d.chance(0.55)[:, None]  # hands on the thighs or in the lap
    gesture = _gestures(d)
    lean = d.normal(0, 10)
    return {
        "pelvis_pitch": -12 + 0.5 * lean,
        "pelvis_roll": d.normal(0, 3),
        "spine_flex": 14 + 0.9 * lean + d.normal(4, 8),
        "spine_side": d.normal(0, 7),
        "spine_twist": d.normal(0, 10),
        "arm_plane": np.where(rest, d.normal(75, 12, 2), gesture["arm_plane"]),
        "arm_elevation": np.where(rest, d.normal(25, 9, 2), gesture["arm_elevation"]),
        "arm_twist": np.where(rest, d.normal(18, 10, 2), gesture["arm_twist"]),
        "elbow": np.where(rest, d.normal(58, 15, 2), gesture["elbow"]),
        "hip_flex": np.where(on_floor, d.normal(88, 10, 2), d.normal(78, 7, 2)),
        "hip_spread": np.where(on_floor, d.normal(18, 10, 2), d.normal(9, 7, 2)),
        "hip_twist": d.normal(5, 9, 2),
        "knee": np.where(on_floor, d.uniform(5, 90, 2), d.normal(82, 17, 1) + d.normal(0, 10, 2)),
    }


def _reaching(d: Draw) -> Angles:
    left = d.chance(0.5)
    two = d.chance(0.3)
    reach = np.stack([left | two, ~left | two], axis=1)
    side = np.where(two, 0.0, np.where(left, -1.0, 1.0))
    height = d.uniform(55, 165, 1)
    gesture = _gestures(d)
    lift = np.where(d.chance(0.25)[:, None] & d.chance(0.5, 2), d.uniform(5, 45, 2), d.normal(4, 6, 2))
    return {
        "pelvis_pitch": d.normal(3, 7),
        "pelvis_roll": d.normal(0, 4),
        "spine_flex": np.where(height[:, 0] < 95, d.uniform(0, 45), d.normal(-3, 8)),
        "spine_side": side * d.uniform(-5, 20) + d.normal(0, 4),
        "spine_twist": -side * d.uniform(-20, 25) + d.normal(0, 6),
        "arm_plane": np.where(reach, d.uniform(0, 105, 2), gesture["arm_plane"]),
        "arm_elevation": np.where(reach, height + d.normal(0, 8, 2), gesture["arm_elevation"] * 0.6),
        "arm_twist": d.uniform(-30, 40, 2),
        "elbow": np.where(reach, np.abs(d.normal(12, 18, 2)), gesture["elbow"]),
        "hip_flex": d.normal(3, 6, 2) + lift,
        "hip_spread": np.abs(d.normal(6, 5, 2)),
        "hip_twist": d.normal(7, 7, 2),
        "knee": np.abs(d.normal(5, 7, 2)) + 1.2 * lift,
    }


def _crouching(d: Draw) -> Angles:
    depth = d.uniform(0.35, 1.0, 1)
    split = (
        d.chance(0.35)[:, None] * d.uniform(0, 0.5, 1) * np.where(d.chance(0.5)[:, None], 1.0, -1.0) * _SIDE
    )
    gesture = _gestures(d)
    to_floor = d.chance(0.5)[:, None]
    return {
        "pelvis_pitch": 10 + 25 * depth[:, 0] * d.uniform(0.3, 1.0),
        "pelvis_roll": d.normal(0, 3),
        "spine_flex": d.uniform(5, 45),
        "spine_side": d.normal(0, 7),
        "spine_twist": d.normal(0, 9),
        "arm_plane": np.where(to_floor, d.normal(70, 15, 2), gesture["arm_plane"]),
        "arm_elevation": np.where(to_floor, d.uniform(35, 80, 2), gesture["arm_elevation"]),
        "arm_twist": d.normal(8, 15, 2),
        "elbow": np.where(to_floor, d.uniform(8, 70, 2), gesture["elbow"]),
        "hip_flex": 110 * depth * (1 + split) * 0.95 + d.normal(0, 6, 2),
        "hip_spread": d.normal(15, 8, 2),
        "hip_twist": d.normal(8, 8, 2),
        "knee": 138 * depth * (1 - 0.3 * split) + d.normal(0, 6, 2),
    }


def _free(d: Draw) -> Angles:
    bend = d.chance(0.25)
    one_leg = d.chance(0.3)[:, None] & (d.integer(2)[:, None] == np.arange(2))
    stance = np.abs(d.normal(0, 14, 1))
    gesture = _gestures(d)
    return {
        "pelvis_pitch": np.where(bend, d.uniform(5, 50), d.normal(3, 7)),
        "pelvis_roll": d.normal(0, 6),
        "spine_flex": np.where(bend, d.uniform(10, 60), d.normal(3, 10)),
        "spine_side": d.normal(0, 10),
        "spine_twist": d.normal(0, 16),
        **gesture,
        "hip_flex": np.where(one_leg, d.uniform(15, 105, 2), d.normal(0, 8, 2)) + 0.7 * stance,
        "hip_spread": np.where(one_leg, d.uniform(-5, 40, 2), d.normal(8, 8, 2)),
        "hip_twist": d.normal(8, 12, 2),
        "knee": np.where(one_leg, d.uniform(5, 130, 2), np.abs(d.normal(6, 9, 2))) + 1.2 * stance,
    }


def _draw_angles(seed: int, index: np.ndarray, action: np.ndarray) -> Angles:
    angles = {
        name: np.zeros((len(index), 2) if name in _SIDED else len(index))
        for name in LIMITS
        if name != "ankle"
    }
    for number, make in enumerate((_walking, _sitting, _reaching, _crouching, _free)):
        rows = np.flatnonzero(action == number)
        d = Draw(seed, "pose " + ACTIONS[number], index[rows])
        made = make(d)
        made["neck_flex"] = d.normal(6, 12) - 0.35 * made["spine_flex"]
        made["neck_side"] = d.normal(0, 7)
        made["neck_twist"] = d.normal(0, 24)
        made["wrist"] = d.normal(8, 18, 2)
        for name, value in made.items():
            angles[name][rows] = value
    for name, value in angles.items():
        np.clip(value, *LIMITS[name], out=value)
    # A shoulder reaches less far up behind the body and across it; a belly and a thigh leave each other room.
    ceiling = np.interp(angles["arm_plane"], [-40, 0, 95, 125], [50, 165, 170, 110])
    angles["arm_elevation"] = np.minimum(angles["arm_elevation"], ceiling)
    angles["spine_flex"] = np.minimum(angles["spine_flex"], 150 - angles["hip_flex"].max(axis=1))
    # The hips follow a pitched pelvis, so that the legs stay below it.
    angles["hip_flex"] = np.clip(angles["hip_flex"] + angles["pelvis_pitch"][:, None], *LIMITS["hip_flex"])
    return angles


def _rotation(axis: int, degrees: np.ndarray) -> np.ndarray:
    """[..., 3, 3] about x, y or z."""
    radians = np.deg2rad(degrees)
    matrix = np.zeros((*radians.shape, 3, 3))
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix[..., axis, axis] = 1
    matrix[..., i, i] = matrix[..., j, j] = np.cos(radians)
    matrix[..., j, i] = np.sin(radians)
    matrix[..., i, j] = -matrix[..., j, i]
    return matrix


def _trunk_rotation(flex: np.ndarray, side: np.ndarray, twist: np.ndarray) -> np.ndarray:
    return _rotation(2, twist) @ _rotation(1, side) @ _rotation(0, -flex)


def kinematics(angles: Angles, bones: dict[str, np.ndarray]) -> tuple[Frames, np.ndarray]:
    """Frames and ankle angles [N, 2] of bodies whose root is at (0, 0, 0), heading along y.

    ``bones`` as in body.Subjects.
    """
    a = angles
    pelvis = _rotation(1, a["pelvis_roll"]) @ _rotation(0, -a["pelvis_pitch"])
    lumbar = pelvis @ _trunk_rotation(0.4 * a["spine_flex"], 0.4 * a["spine_side"], 0.4 * a["spine_twist"])
    chest = pelvis @ _trunk_rotation(a["spine_flex"], a["spine_side"], a["spine_twist"])
    head = chest @ _trunk_rotation(a["neck_flex"], a["neck_side"], a["neck_twist"])

    turn = _SIDE * (a["arm_plane"] - 90)
    upper_arm = chest[:, None] @ (
        _rotation(2, turn) @ _rotation(0, a["arm_elevation"]) @ _rotation(2, _SIDE * a["arm_twist"] - turn)
    )
    forearm = upper_arm @ _rotation(0, a["elbow"])
    hand = forearm @ _rotation(1, _SIDE * a["wrist"])
    thigh = pelvis[:, None] @ (
        _rotation(0, a["hip_flex"])
        @ _rotation(1, -_SIDE * a["hip_spread"])
        @ _rotation(2, -_SIDE * a["hip_twist"])
    )
    shin = thigh @ _rotation(0, -a["knee"])
    # The sole turns as level as the ankle lets it.
    ankle = np.rad2deg(np.arctan2(-shin[..., 2, 1], shin[..., 2, 2]))
    ankle = np.clip(ankle, *LIMITS["ankle"])
    foot = shin @ _rotation(0, ankle)

    def at(origin: np.ndarray, rotation: np.ndarray, offset: np.ndarray) -> np.ndarray:
        return origin + (rotation @ offset[..., None])[..., 0]

    root = np.zeros((len(pelvis), 3))
    torso = at(root, lumbar, bones["torso"])
    neck = at(torso, chest, bones["neck"])
    shoulder = at(torso[:, None], chest[:, None], bones["shoulder"])
    elbow = at(shoulder, upper_arm, bones["elbow"][:, None])
    wrist = at(elbow, forearm, bones["wrist"][:, None])
    hip = at(root[:, None], pelvis[:, None], bones["hip"])
    knee = at(hip, thigh, bones["knee"][:, None])
    ankle_joint = at(knee, shin, bones["ankle"][:, None])

    def sided(*parts: np.ndarray) -> list[np.ndarray]:
        return [part[:, side] for part in parts for side in (0, 1)]

    rotations = [pelvis, chest, head, lumbar, *sided(upper_arm, forearm, hand, thigh, shin, foot)]
    origins = [root, torso, neck, root, *sided(shoulder, elbow, wrist, hip, knee, ankle_joint)]
    return Frames(np.stack(rotations, axis=1), np.stack(origins, axis=1)), ankle


def _gap(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """[N, P] distance of points [N, P, 3] from segments [N, 3]-[N, 3]."""
    along = (end - start)[:, None]
    from_start = points - start[:, None]
    share = np.clip((from_start * along).sum(-1) / (along**2).sum(-1), 0, 1)
    return np.linalg.norm(from_start - share[..., None] * along, axis=-1)


def _overlap(frames: Frames) -> np.ndarray:
    """[N] mm by which arms and legs run into the body or each other, roughly."""
    f = {name: frames.origin[:, i] for i, name in enumerate(FRAMES)}
    crown = f["head"] + frames.rotation[:, FRAMES.index("head"), :, 2] * 160
    total = np.zeros(len(crown))
    for side, other in (("left", "right"), ("right", "left")):
        elbow, wrist = f[f"{side}_forearm"], f[f"{side}_hand"]
        tip = wrist - frames.rotation[:, FRAMES.index(f"{side}_hand"), :, 2] * 120
        arm = np.stack([elbow, 0.5 * (elbow + wrist), wrist, tip], axis=1)
        leg = np.stack(
            [f[f"{side}_shin"], 0.5 * (f[f"{side}_shin"] + f[f"{side}_foot"]), f[f"{side}_foot"]], axis=1
        )
        for points, start, end, radius in (
            (arm, f["pelvis"], f["chest"], 165.0),
            (arm, f["chest"], f["head"], 175.0),
            (arm[:, 1:], f["head"], crown, 125.0),
            (arm[:, 1:], f[f"{side}_thigh"], f[f"{side}_shin"], 100.0),
            (arm[:, 1:], f[f"{other}_thigh"], f[f"{other}_shin"], 100.0),
            (arm[:, 1:], f[f"{other}_forearm"], f[f"{other}_hand"], 75.0),
            (leg, f[f"{other}_shin"], f[f"{other}_foot"], 110.0),
            (leg[:, :1], f[f"{other}_thigh"], f[f"{other}_shin"], 120.0),
        ):
            total += np.maximum(0, radius - _gap(points, start, end)).sum(axis=1)
    return total


def pose_people(
    seed: int, index: np.ndarray, action: np.ndarray, bones: dict[str, np.ndarray]
) -> tuple[Frames, Angles]:
    """The least overlapping of a few drawn poses for each index [N]: root at the origin, heading along y."""
    count = len(index)
    several = (index[:, None] * _CANDIDATES + np.arange(_CANDIDATES)).ravel()
    angles = _draw_angles(seed, several, np.repeat(action, _CANDIDATES))
    frames, ankle = kinematics(
        angles, {name: np.repeat(bone, _CANDIDATES, axis=0) for name, bone in bones.items()}
    )
    best = (
        _overlap(frames).reshape(count, _CANDIDATES).round().argmin(axis=1) + np.arange(count) * _CANDIDATES
    )
    chosen = {name: value[best] for name, value in angles.items()} | {"ankle": ankle[best]}
    return Frames(frames.rotation[best], frames.origin[best]), chosen
