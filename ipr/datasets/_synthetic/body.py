"""Subjects: bone lengths, the solids that make a body, and clothes, all from the subject's number.

A body is a union of *solids*: along a straight axis, with an elliptic section whose squared radius is a
quadratic of the position on the axis. That one family holds ellipsoids (radius 0 at both ends), cones and
muscle-like barrels, and a ray meets it in closed form.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ipr.datasets._synthetic.draw import Draw
from ipr.datasets._synthetic.pose import FRAMES, Frames

SKIN, SHIRT, TROUSERS, SHOES, HAIR, CAP = range(6)
_NEVER = 1e6  # mm: a cut beyond every end
_SIDES = (("left", -1.0), ("right", 1.0))

# Columns are the solid's own axes (across, across, along) in its frame.
_UP = np.eye(3)
_DOWN = np.diag([1.0, -1.0, -1.0])
_FORWARD = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])


class Solids(NamedTuple):
    """The solids of each body, in their frames, mm. S subjects or N rows, P solids."""

    name: tuple[str, ...]  # [P]
    frame: np.ndarray  # [P] index into FRAMES
    axes: np.ndarray  # [P, 3, 3] columns: own x, y, axis
    base: np.ndarray  # [S, P, 3] where the axis starts
    length: np.ndarray  # [S, P]; 0 = this body has no such solid
    section: np.ndarray  # [S, P, 2] semi-axes of the section at radius 1
    radius: np.ndarray  # [S, P, 3] at the start, the middle and the end of the axis
    material: np.ndarray  # [S, P, 2] before and behind the cut
    cut: np.ndarray  # [S, P] mm along the axis


class Worn(NamedTuple):
    """What covers a solid: ``material`` up to ``cut`` mm along its axis, ``behind`` after it."""

    material: np.ndarray | int
    behind: np.ndarray | int = SKIN
    cut: np.ndarray | float = _NEVER


class Subjects(NamedTuple):
    """All subjects of a split: [S, ...]."""

    number: np.ndarray  # [S]
    bones: dict[str, np.ndarray]  # mm, offsets of joints in their frames; see pose.kinematics
    head: np.ndarray  # [S, 2, 3] nose and top of the head in the head's frame
    solids: Solids
    colors: np.ndarray  # [S, 7, 3] 0..1 RGB: the six materials, and the second colour of the shirt
    pattern: (
        np.ndarray
    )  # [S, 2, 3] of shirt and trousers: stripes along, stripes around, spots: contrast 0..1
    period: np.ndarray  # [S, 2] mm
    print_kind: (
        np.ndarray
    )  # [S] what is on the chest: 0 nothing, 1 disc, 2 block, 3 band, 4 open jacket, 5 pocket


def _mirror(offset: list[float] | np.ndarray) -> np.ndarray:
    return np.asarray(offset)[..., None, :] * np.array([[-1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])


def _hsv(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """[...] each -> [..., 3] RGB 0..1."""
    k = (hue[..., None] * 6 + np.array([5.0, 3.0, 1.0])) % 6
    return value[..., None] * (1 - saturation[..., None] * np.clip(np.minimum(k, 4 - k), 0, 1))


def palette_hue(draw: Draw, held_out: bool, *shape: int) -> np.ndarray:
    """Hues of the training palettes lie around six centres, those of the validation palettes between them."""
    return (
        (draw.integer(6, *shape) + (0.5 if held_out else 0.0)) / 6 + draw.uniform(-0.045, 0.045, *shape)
    ) % 1.0


class _Builder:
    """Collects the solids of all subjects, one kind of solid at a time."""

    def __init__(self, count: int) -> None:
        self._zero = np.zeros(count)
        self._parts: list[tuple] = []

    def vector(self, x: np.ndarray | float, y: np.ndarray | float, z: np.ndarray | float) -> np.ndarray:
        """[S, 3]"""
        return np.stack([self._zero + x, self._zero + y, self._zero + z], axis=-1)

    def add(
        self,
        name: str,
        frame: str,
        axes: np.ndarray,
        base: np.ndarray,
        length: np.ndarray | float,
        section: tuple,
        radius: tuple,
        worn: Worn,
    ) -> None:
        materials = np.stack(
            [self._zero.astype(int) + worn.material, self._zero.astype(int) + worn.behind], axis=-1
        )
        stacked = (np.stack([self._zero + v for v in values], axis=-1) for values in (section, radius))
        self._parts.append(
            (
                name,
                FRAMES.index(frame),
                axes,
                base,
                self._zero + length,
                *stacked,
                materials,
                self._zero + worn.cut,
            )
        )

    def ellipsoid(
        self,
        name: str,
        frame: str,
        center: np.ndarray,
        semi: tuple,
        worn: Worn,
        present: np.ndarray | bool = True,
    ) -> None:
        """``semi``-axes along x, y, z of the frame."""
        base = center - self.vector(0, 0, semi[2])
        self.add(name, frame, _UP, base, 2 * semi[2] * present, semi[:2], (0, 1, 0), worn)

    def solids(self) -> Solids:
        name, frame, axes, *fields = zip(*self._parts, strict=True)
        return Solids(name, np.array(frame), np.stack(axes), *(np.stack(field, axis=1) for field in fields))


def make_subjects(number: np.ndarray, held_out: bool) -> Subjects:
    """Shape and clothes of the subjects ``number`` [S]; ``held_out`` picks the validation palettes."""
    d = Draw(0, "subject", number)
    count = len(number)
    woman = d.chance(0.5)
    stature = np.where(woman, d.normal(0.96, 0.045), d.normal(1.03, 0.045))
    leg, trunk, arm = (stature * d.normal(1, 0.03) for _ in range(3))
    shoulder = stature * np.where(woman, d.normal(0.94, 0.05), d.normal(1.04, 0.05))
    hip = stature * np.where(woman, d.normal(1.05, 0.05), d.normal(0.98, 0.05))
    girth = np.clip(stature * np.exp(d.normal(0.02, 0.12)), 0.78, 1.45)
    muscle = stature * np.where(woman, d.normal(0.92, 0.06), d.normal(1.04, 0.08))
    b = _Builder(count)
    vector = b.vector
    bones = {
        "torso": vector(0, 5, 230 * trunk),
        "neck": vector(0, -12, 262 * trunk),
        "shoulder": _mirror(vector(163 * shoulder, -8, 226 * trunk)),
        "elbow": vector(0, 0, -283 * arm * d.normal(1, 0.02)),
        "wrist": vector(0, 0, -252 * arm * d.normal(1, 0.03)),
        "hip": _mirror(vector(112 * hip, 0, 0)),
        "knee": vector(0, 0, -438 * leg * d.normal(1, 0.02)),
        "ankle": vector(0, 0, -432 * leg * d.normal(1, 0.02)),
    }
    size = 0.5 + 0.5 * stature  # heads vary less than bodies
    head = np.stack([vector(0, 104 * size, 100 * size), vector(0, 15, 242 * size)], axis=1)

    long_sleeve, sleeveless = d.chance(0.45), d.chance(0.2)
    sleeveless &= ~long_sleeve
    sleeve = np.where(
        long_sleeve, 1.0, np.where(sleeveless, -1.0, d.uniform(0.4, 0.6))
    )  # share of the upper arm
    shorts, untucked = d.chance(0.28), d.chance(0.55)
    hem = np.where(untucked, d.uniform(-90, -20), d.uniform(25, 70))  # z of the shirt's end on the pelvis
    cloth = np.where(d.chance(0.4), 10.0, 3.0)  # mm of cloth around a limb
    skin, shirt, trousers, shoes = (Worn(material) for material in (SKIN, SHIRT, TROUSERS, SHOES))

    broad, wide = 0.5 * (girth + shoulder), 0.5 * (girth + hip)
    waist = np.where(woman, 0.88, 0.95) * girth
    bust = np.where(woman, d.uniform(0.75, 1.1), 0.0)
    belly = np.clip((girth / stature - 1) * 4, 0, 1)
    tucked = Worn(TROUSERS, SHIRT, hem + 118)
    base = vector(0, 0, -118 * stature)
    b.add("pelvis", "pelvis", _UP, base, 283 * trunk, (174 * wide, 120 * girth), (0, 1, 0.87), tucked)
    b.add(
        "abdomen",
        "lumbar",
        _UP,
        vector(0, 2, 40),
        215 * trunk,
        (160 * waist + cloth, 116 * waist + cloth),
        (1, 0.98, 1.02),
        shirt,
    )
    b.add(
        "chest",
        "chest",
        _UP,
        vector(0, 0, -50),
        318 * trunk,
        (168 * broad + cloth, 118 * girth + cloth),
        (0.9, 1.03, 0.5),
        shirt,
    )
    b.ellipsoid(
        "yoke", "chest", vector(0, -10, 218 * trunk), (172 * shoulder, 74 * girth, 52 * muscle), shirt
    )
    b.ellipsoid(
        "bust",
        "chest",
        vector(0, 60 * girth, 118 * trunk),
        (125 * broad, 88 * girth * bust, 82 * stature),
        shirt,
        bust > 0,
    )
    b.ellipsoid(
        "belly",
        "lumbar",
        vector(0, 50 * girth, 120),
        (138 * girth, 92 * girth, 135 * trunk),
        shirt,
        belly > 0.3,
    )
    b.add(
        "neck", "head", _UP, vector(0, -8, -55), 150 * size, (57 * muscle, 60 * muscle), (1.2, 0.93, 1), skin
    )
    b.ellipsoid("skull", "head", vector(0, 16, 124 * size), (75 * size, 94 * size, 118 * size), skin)
    b.ellipsoid("nose", "head", vector(0, 108 * size, 100 * size), (14 * size, 19 * size, 24 * size), skin)
    style = d.integer(4)  # of the hair: 0 short, 1 long, 2 under a cap, 3 nearly none
    style = np.where(woman & (style == 3), 1, style)
    volume = size * np.where(style == 3, 0.0, d.uniform(1.0, 1.12))
    b.ellipsoid(
        "hair",
        "head",
        vector(0, -2, 148 * size),
        (82 * volume, 97 * volume, 104 * volume),
        Worn(HAIR),
        volume > 0,
    )
    b.ellipsoid(
        "long hair", "head", vector(0, -56, 70), (88 * size, 55, d.uniform(110, 190)), Worn(HAIR), style == 1
    )
    b.ellipsoid(
        "cap", "head", vector(0, 14, 186 * size), (84 * size, 102 * size, 68 * size), Worn(CAP), style == 2
    )
    b.ellipsoid(
        "brim", "head", vector(0, 120 * size, 192 * size), (66 * size, 78 * size, 12), Worn(CAP), style == 2
    )

    upper, fore = -bones["elbow"][:, 2], -bones["wrist"][:, 2]
    thigh, shin = -bones["knee"][:, 2], -bones["ankle"][:, 2]
    limb, one, zero = 0.5 * (girth + muscle), (1.0, 1.0), vector(0, 0, 0)
    short_end = d.uniform(0.6, 0.95)
    arm = limb * np.where(long_sleeve, 1, 0.97)
    sleeve_cloth, leg_cloth = np.where(long_sleeve, cloth, 0.0), np.where(shorts, 0.0, cloth)
    arm_worn = Worn(SHIRT, SKIN, np.where(long_sleeve, _NEVER, -_NEVER))
    leg_worn = Worn(TROUSERS, SKIN, np.where(shorts, -_NEVER, _NEVER))
    for name, side in _SIDES:
        b.ellipsoid(
            f"{name} buttock",
            "pelvis",
            vector(side * 66 * hip, -40 * girth, -38),
            (92 * wide, 84 * girth, 98 * stature),
            trousers,
        )
        b.ellipsoid(
            f"{name} ear", "head", vector(side * 76 * size, 8, 112 * size), (10, 20, 32), skin, style != 1
        )
        f, r = f"{name}_upper_arm", 53 * arm + 0.6 * cloth
        b.ellipsoid(
            f"{name} deltoid",
            f,
            vector(-6 * side, 0, -14),
            (r, r, 1.25 * r),
            Worn(SHIRT, SKIN, np.where(sleeveless, -_NEVER, _NEVER)),
        )
        r = 41 * arm + sleeve_cloth
        radii = (51 * arm + 0.6 * cloth, 49 * arm + sleeve_cloth, r)
        b.add(f"{name} upper arm", f, _DOWN, zero, upper, one, radii, Worn(SHIRT, SKIN, sleeve * upper))
        f = f"{name}_forearm"
        b.ellipsoid(f"{name} elbow", f, zero, (r, r, r), arm_worn)
        radii = (r, 41 * arm + sleeve_cloth, 27 * muscle + 0.6 * sleeve_cloth)
        cuff = Worn(SHIRT, SKIN, np.where(long_sleeve, fore - 15, -_NEVER))
        b.add(f"{name} forearm", f, _DOWN, zero, fore, (0.92, 1.05), radii, cuff)
        f = f"{name}_hand"
        b.ellipsoid(f"{name} wrist", f, vector(0, 0, 0), (26 * muscle, 29 * muscle, 34 * muscle), skin)
        b.add(
            f"{name} palm",
            f,
            _DOWN,
            vector(0, 4, 5),
            182 * stature,
            (21 * stature, 43 * stature),
            (0.5, 1, 0.3),
            skin,
        )
        b.ellipsoid(f"{name} thumb", f, vector(side * -6, 43 * stature, -72 * stature), (15, 16, 46), skin)
        f, r = f"{name}_thigh", 84 * limb + leg_cloth
        b.ellipsoid(f"{name} hip", f, vector(-8 * side, 2, -15), (r, r, 1.25 * r), trousers)
        r = 57 * limb + leg_cloth
        radii = (83 * limb + leg_cloth, 76 * limb + leg_cloth, r)
        end = Worn(TROUSERS, SKIN, np.where(shorts, short_end, 2.0) * thigh)
        b.add(f"{name} thigh", f, _DOWN, zero, thigh, one, radii, end)
        f = f"{name}_shin"
        b.ellipsoid(f"{name} knee", f, vector(0, 2, 0), (r, r, r), leg_worn)
        radii = (55 * limb + leg_cloth, 51 * limb + leg_cloth, 36 * muscle + 1.7 * leg_cloth)
        end = Worn(TROUSERS, SKIN, np.where(shorts, -_NEVER, shin - 15))
        b.add(f"{name} shin", f, _DOWN, zero, shin, one, radii, end)
        b.ellipsoid(
            f"{name} calf", f, vector(0, -20, -0.3 * shin), (50 * limb, 46 * limb, 0.3 * shin), leg_worn
        )
        f = f"{name}_foot"
        b.ellipsoid(f"{name} heel", f, vector(0, -22, -38), (42, 50, 52), shoes)
        b.add(
            f"{name} sole",
            f,
            _FORWARD,
            vector(0, -66, -40),
            262 * stature,
            (46 * stature, 38),
            (0.72, 1, 0.4),
            shoes,
        )
        b.ellipsoid(f"{name} toes", f, vector(0, 150 * stature, -50), (48 * stature, 58, 28), shoes)
    return Subjects(number, bones, head, b.solids(), *_clothes(number, held_out))


def _clothes(number: np.ndarray, held_out: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    d = Draw(0, "clothes", number)
    tone = d.uniform(0, 1)[:, None]
    skin = (1 - tone) * np.array([0.93, 0.74, 0.63]) + tone * np.array([0.36, 0.22, 0.16])
    skin = skin * d.normal(1, 0.04, 3)
    hairs = np.array(
        [[0.08, 0.06, 0.05], [0.22, 0.14, 0.08], [0.45, 0.28, 0.14], [0.78, 0.62, 0.36], [0.6, 0.59, 0.57]]
    )
    hair = hairs[d.integer(5)] * d.normal(1, 0.1, 1)

    def cloth(dull: float) -> np.ndarray:
        gray = d.chance(dull)
        saturation = np.where(gray, d.uniform(0, 0.12), d.uniform(0.2, 0.75))
        return _hsv(palette_hue(d, held_out), saturation, d.uniform(0.16, 0.95))

    shirt, second, trousers, shoes, cap = cloth(0.3), cloth(0.4), cloth(0.45), cloth(0.6), cloth(0.3)
    trousers = trousers * 0.75
    colors = np.stack([skin, shirt, trousers, shoes, hair, cap, second], axis=1)
    kind = d.integer(6)[:, None]  # half of the shirts are plain
    shirt_pattern = (kind == np.arange(3)) * d.uniform(0.35, 1.0, 1)
    trouser_pattern = (d.integer(12)[:, None] == np.arange(3)) * d.uniform(0.1, 0.35, 1)
    pattern = np.stack([shirt_pattern, trouser_pattern], axis=1)
    return np.clip(colors, 0.02, 0.98), pattern, d.uniform(60, 150, 2), d.integer(6)


def joints_world(frames: Frames, head: np.ndarray) -> np.ndarray:
    """[N, 18, 3] joints of ``h36m_18``; ``head`` [N, 2, 3] as in Subjects."""
    at = {name: frames.origin[:, i] for i, name in enumerate(FRAMES)}
    nose, top = np.moveaxis(
        at["head"][:, None] + head @ frames.rotation[:, FRAMES.index("head")].swapaxes(1, 2), 1, 0
    )
    shoulders = at["left_upper_arm"], at["right_upper_arm"]
    order = [
        at["pelvis"],
        at["right_thigh"], at["right_shin"], at["right_foot"],
        at["left_thigh"], at["left_shin"], at["left_foot"],
        at["chest"], at["head"], nose, top,
        at["left_upper_arm"], at["left_forearm"], at["left_hand"],
        at["right_upper_arm"], at["right_forearm"], at["right_hand"],
        0.5 * (shoulders[0] + shoulders[1]),
    ]  # fmt: skip
    return np.stack(order, axis=1)


def ground_height(frames: Frames) -> np.ndarray:
    """[N] z of the lowest point of soles, knees, hands and seat: where the floor must be."""
    origin, rotation = frames.origin, frames.rotation
    index = {name: i for i, name in enumerate(FRAMES)}
    lowest = [origin[:, index["pelvis"], 2] - 125]
    for side, _ in _SIDES:
        foot, hand = index[f"{side}_foot"], index[f"{side}_hand"]
        for offset in ([0, -50, -78], [0, 175, -78]):
            lowest.append(origin[:, foot, 2] + rotation[:, foot, 2] @ np.array(offset, dtype=float))
        lowest.append(origin[:, hand, 2] + rotation[:, hand, 2] @ np.array([0.0, 0.0, -170.0]) - 15)
        lowest.append(origin[:, index[f"{side}_shin"], 2] - 62)
        lowest.append(origin[:, index[f"{side}_forearm"], 2] - 45)
    return np.min(lowest, axis=0)
