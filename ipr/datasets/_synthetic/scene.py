"""Around the body: its place, the camera, the room and what stands in it. World axes: z up, floor at 0."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ipr.datasets._synthetic.body import ground_height, joints_world, palette_hue
from ipr.datasets._synthetic.draw import Draw
from ipr.datasets._synthetic.pose import ACTIONS, Frames

IMAGE_SIZE = 1000
_FURNITURE = 5
_CORNERS = np.array([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])
_MARGIN = 30.0  # px between the joints and the image's border


class Objects(NamedTuple):
    """Boxes (seat, back, furniture, occluder) and upright round things (leg of a seat, lamp, ball, pole)."""

    center: np.ndarray  # [N, K, 3] mm world
    half: np.ndarray  # [N, K, 3] mm; 0 = absent
    yaw: np.ndarray  # [N, K] rad
    color: np.ndarray  # [N, K, 3] 0..1
    round_base: np.ndarray  # [N, M, 3] mm world
    round_length: np.ndarray  # [N, M] mm; 0 = absent
    round_radius: np.ndarray  # [N, M] mm
    round_profile: np.ndarray  # [M, 3] see body.Solids.radius
    round_color: np.ndarray  # [N, M, 3]

    def corners(self, row: int) -> np.ndarray:
        """[K', 8, 3] mm world of the row's boxes."""
        present = np.flatnonzero(self.half[row, :, 0] > 0)
        turned = (_CORNERS * self.half[row, present, None]) @ about_z(self.yaw[row, present]).swapaxes(1, 2)
        return self.center[row, present, None] + turned

    def posts(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Both ends [M', 2, 3] mm world and the radius [M'] mm of the row's round things."""
        present = np.flatnonzero(self.round_length[row] > 0)
        base = self.round_base[row, present, None]
        up = self.round_length[row, present, None, None] * np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
        return base + up, self.round_radius[row, present]


class Scene(NamedTuple):
    """Cameras, light and room of every row."""

    focal: np.ndarray  # [N, 2] px
    center: np.ndarray  # [N, 2] px
    R: np.ndarray  # [N, 3, 3]
    t: np.ndarray  # [N, 3] mm
    light: np.ndarray  # [N, 3] unit, towards the light
    ambient: np.ndarray  # [N] share of light that has no direction
    tint: np.ndarray  # [N, 3] colour of the light x exposure
    walls: np.ndarray  # [N, 4] mm: x low, x high, y low, y high
    wall_number: np.ndarray  # [N, 4] which wall picture
    floor_number: np.ndarray  # [N]
    blur: np.ndarray  # [N] px of the full image, standard deviation
    noise: np.ndarray  # [N] standard deviation, 0..255
    objects: Objects


def place(seed: int, index: np.ndarray, frames: Frames) -> Frames:
    """Turn bodies to any heading and put them on the floor somewhere near the room's middle."""
    d = Draw(seed, "place", index)
    yaw = d.uniform(0, 2 * np.pi)
    turn = about_z(yaw)
    spot = np.concatenate([d.uniform(-1500, 1500, 2), -ground_height(frames)[:, None]], axis=1)
    rotation = turn[:, None] @ frames.rotation
    origin = (turn[:, None] @ frames.origin[..., None])[..., 0] + spot[:, None]
    return Frames(rotation, origin)


def about_z(yaw: np.ndarray) -> np.ndarray:
    """[..., 3, 3] turns by ``yaw`` [...] rad."""
    zero, one = np.zeros_like(yaw), np.ones_like(yaw)
    rows = [np.cos(yaw), -np.sin(yaw), zero, np.sin(yaw), np.cos(yaw), zero, zero, zero, one]
    return np.stack(rows, axis=-1).reshape(*yaw.shape, 3, 3)


def _cameras(
    d: Draw, joints: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """focal, center, R, t and position [N, ...] of cameras that see all ``joints`` [N, J, 3] (world)."""
    count = len(joints)
    focal = np.repeat(d.uniform(1140, 1150, 1), 2, axis=1) + d.uniform(-0.5, 0.5, 2)
    center = d.uniform(506, 520, 2)
    target = 0.5 * (joints.min(1) + joints.max(1))
    distance, azimuth = d.uniform(3000, 6000), d.uniform(0, 2 * np.pi)
    height = np.clip(d.normal(1550, 300), 700, 2500)
    position = np.stack(
        [target[:, 0] + distance * np.cos(azimuth), target[:, 1] + distance * np.sin(azimuth), height], axis=1
    )
    forward = (target - position) / np.linalg.norm(target - position, axis=1, keepdims=True)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    look = np.stack([right, np.cross(forward, right), forward], axis=1)

    def turned(x: np.ndarray, y: np.ndarray, roll: np.ndarray) -> np.ndarray:
        """The looking camera turned so that the target moves by about (x, y) px."""
        a, b = np.arctan(x / focal[:, 0]), np.arctan(y / focal[:, 1])
        zero, one = np.zeros(count), np.ones(count)
        about_y = np.stack([np.cos(a), zero, np.sin(a), zero, one, zero, -np.sin(a), zero, np.cos(a)], 1)
        about_x = np.stack([one, zero, zero, zero, np.cos(b), np.sin(b), zero, -np.sin(b), np.cos(b)], 1)
        return about_z(roll) @ about_x.reshape(-1, 3, 3) @ about_y.reshape(-1, 3, 3) @ look

    def bounds(R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        cam = (joints - position[:, None]) @ R.swapaxes(1, 2)
        img = cam[..., :2] / cam[..., 2:] * focal[:, None] + center[:, None]
        return img.min(1), img.max(1)

    roll = np.deg2rad(d.normal(0, 1.2))
    wish = d.uniform(-1, 1, 2) * np.array([200.0, 120.0])
    shift = wish
    for _ in range(3):  # the second and third pass bring whoever left the image back
        low, high = bounds(turned(shift[:, 0], shift[:, 1], roll))
        shift = shift + np.maximum(0, _MARGIN - low) - np.maximum(0, high - (IMAGE_SIZE - _MARGIN))
    R = turned(shift[:, 0], shift[:, 1], roll)
    return focal, center, R, -(R @ position[..., None])[..., 0], position


def _objects(
    d: Draw, action: np.ndarray, frames: Frames, joints: np.ndarray, position: np.ndarray, held_out: bool
) -> Objects:
    count = len(action)
    root, heading = joints[:, 0], frames.rotation[:, 0, :, 1]
    facing = np.arctan2(heading[:, 1], heading[:, 0]) - np.pi / 2
    ahead = np.stack([-np.sin(facing), np.cos(facing)], axis=1)
    seat = root[:, 2] - 118
    seated = (action == ACTIONS.index("sitting")) & (seat > 90)
    chair = d.chance(0.6)
    spot = root[:, :2] - 10 * ahead

    def box(
        xy: np.ndarray,
        low: np.ndarray | float,
        high: np.ndarray,
        half_xy: np.ndarray,
        yaw: np.ndarray,
        present: np.ndarray,
    ) -> tuple:
        half = np.concatenate([half_xy, 0.5 * (high - low)[:, None]], axis=1)
        center = np.concatenate([xy, 0.5 * (high + low)[:, None]], axis=1)
        return center, half * present[:, None], yaw

    width = d.uniform(200, 290, 1)
    square = np.concatenate([width, d.uniform(190, 230, 1)], axis=1)
    behind, thin = spot - (square[:, 1:] - 20) * ahead, np.concatenate([width, np.full((count, 1), 22.0)], 1)
    made = [
        box(spot, np.where(chair, seat - 50, 0), seat, square, facing, seated),
        box(behind, seat - 40, seat + d.uniform(250, 480), thin, facing, seated & chair & d.chance(0.6)),
    ]  # fmt: skip
    toward = position[:, :2] - root[:, :2]
    camera_side = np.arctan2(toward[:, 1], toward[:, 0])
    tall = d.chance(0.4, _FURNITURE)
    for k in range(_FURNITURE):
        half_xy = d.uniform(120, 520, 2)
        angle = camera_side + np.deg2rad(d.uniform(60, 300))
        away = d.uniform(700, 3200) + np.linalg.norm(half_xy, axis=1)
        xy = root[:, :2] + away[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
        high = np.where(tall[:, k], d.uniform(900, 2000), d.uniform(250, 800))
        made.append(box(xy, 0, high, half_xy, d.uniform(0, np.pi), d.chance(0.75)))
    line = toward / np.linalg.norm(toward, axis=1, keepdims=True)
    sideways = np.stack([-line[:, 1], line[:, 0]], axis=1)

    def in_the_way(spread: float) -> np.ndarray:
        return root[:, :2] + line * d.uniform(750, 1250, 1) + sideways * d.uniform(-spread, spread, 1)

    blocked = d.chance(0.2)
    made.append(
        box(in_the_way(450), 0, d.uniform(250, 750), d.uniform(100, 260, 2), d.uniform(0, np.pi), blocked)
    )
    center, half, yaw = (np.stack(column, axis=1) for column in zip(*made, strict=True))

    def upright(
        xy: np.ndarray, low: np.ndarray | float, length: np.ndarray, radius: np.ndarray, present: np.ndarray
    ) -> tuple:
        base = np.concatenate([xy, np.broadcast_to(low, (count,))[:, None]], axis=1)
        return base, length * present, radius

    angle = camera_side[:, None] + np.deg2rad(d.uniform(60, 300, 2))
    around = root[:, None, :2] + d.uniform(900, 3000, 2, 1) * np.stack([np.cos(angle), np.sin(angle)], -1)
    ball = d.uniform(100, 350)
    pole = d.chance(0.12) & ~blocked
    rounds = [
        upright(spot, 0, np.maximum(seat - 50, 1), np.full(count, 35.0), seated & chair),
        upright(around[:, 0], 0, d.uniform(1200, 2400), d.uniform(20, 130), d.chance(0.5)),
        upright(around[:, 1], 0, 2 * ball, ball, d.chance(0.4)),
        upright(in_the_way(260), 0, np.full(count, 2600.0), d.uniform(18, 55), pole),
    ]
    base, length, radius = (np.stack(column, axis=1) for column in zip(*rounds, strict=True))
    profile = np.array([[1, 1, 1], [1, 1, 1], [0, 1, 0], [1, 1, 1]], dtype=float)

    def colors(k: int) -> np.ndarray:
        hue, saturation, value = (
            palette_hue(d, held_out, k),
            d.uniform(0, 0.75, k) ** 1.6,
            d.uniform(0.18, 0.95, k),
        )
        channel = (hue[..., None] * 6 + np.array([5.0, 3.0, 1.0])) % 6
        return value[..., None] * (
            1 - saturation[..., None] * np.clip(np.minimum(channel, 4 - channel), 0, 1)
        )

    fields = center, half, yaw, colors(len(made)), base, length, radius, profile, colors(len(rounds))
    return Objects(*(field.astype(np.float32) for field in fields))  # workers get copies: keep them small


def make_scene(
    seed: int,
    index: np.ndarray,
    action: np.ndarray,
    frames: Frames,
    head: np.ndarray,
    pictures: tuple[int, int],
    held_out: bool,
) -> Scene:
    """Scenes around placed bodies [N]; ``pictures``: how many walls and floors there are to choose from."""
    joints = joints_world(frames, head)
    focal, center, R, t, position = _cameras(Draw(seed, "camera", index), joints)
    d = Draw(seed, "room", index)
    azimuth, elevation = d.uniform(0, 2 * np.pi), np.deg2rad(d.uniform(48, 75))
    light = np.stack(
        [np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)], axis=1
    )
    both = np.stack([joints[:, 0, :2], position[:, :2]], axis=1)
    low, high = both.min(1) - d.uniform(1200, 3500, 2), both.max(1) + d.uniform(1200, 3500, 2)
    walls = np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], axis=1)
    warm = d.normal(0, 0.06)
    tint = np.stack([1 + warm, 1 + d.normal(0, 0.02), 1 - warm], axis=1) * np.exp(d.normal(0.12, 0.16, 1))
    objects = _objects(Draw(seed, "objects", index), action, frames, joints, position, held_out)
    return Scene(
        focal, center, R, t, light, d.uniform(0.4, 0.65), tint, walls,
        d.integer(pictures[0], 4), d.integer(pictures[1]), d.uniform(0.5, 2.5), d.uniform(1.5, 5.5), objects,
    )  # fmt: skip
