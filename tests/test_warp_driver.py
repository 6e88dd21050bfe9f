"""Following a driver whose landmarks are known exactly: pose, expression, lids, and what the motion networks add."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from personalive.contracts import HeadMotion
from personalive.models.face_mesh import FaceMesh, project
from personalive.models.reference_warp import ReferenceWarp
from personalive.motion.keypoints import rotation
from personalive.motion.signals import Observation, observe
from personalive.warp.driver import GLANCE_GAIN, SeenDriver, follow_driver, follow_known, meet_driver, see_driver
from toy import toy_networks, warp_networks
from toy_mesh import BLINK_LEFT, BLINK_RIGHT, EXPRESSIONS, JAW, SMILE, toy_warp

FRAMES = 6
SURE = 0.005


@pytest.fixture(scope="module")
def warp() -> ReferenceWarp:
    torch.manual_seed(0)
    return toy_warp()


def expressions(count: int = FRAMES) -> Tensor:
    """(F, E): at rest in the first frame, then a mouth that opens and smiles, and lids that close."""
    found = torch.zeros(count, EXPRESSIONS)
    for place, most in ((JAW, 0.8), (SMILE, 0.6), (BLINK_LEFT, 0.9), (BLINK_RIGHT, 0.7)):
        found[:, place] = torch.linspace(0, most, count)
    return found


def angles(count: int = FRAMES) -> Tensor:
    """(F, 3) degrees."""
    return torch.linspace(0, 1, count)[:, None] * torch.tensor([8.0, -20.0, 10.0]) + torch.tensor([2.0, 5.0, -3.0])


def landmarks(mesh: FaceMesh, neutral: Tensor, expression: Tensor, turned: Tensor, place: Tensor) -> Tensor:
    """Where a person's landmarks are: (F, K, 2)."""
    marks = mesh.landmarks.long()
    moved = neutral[marks] + torch.einsum("fe,ekc->fkc", expression, mesh.expressions(marks))
    scale = torch.full((len(turned), 1), 0.085)
    return project(moved, mesh.weight[marks], rotation(turned), scale, place)[..., :2]


def seen(points: Tensor, turned: Tensor) -> SeenDriver:
    """The frames as the networks would see them: angles some degrees off, tokens that say nothing."""
    count = len(points)
    head = HeadMotion(torch.zeros(count, 21, 3), turned + 4, torch.zeros(count, 3), torch.ones(count, 1))
    return SeenDriver(Observation(head, torch.zeros(count, 1, 8)), points, torch.full(points.shape[:2], SURE))


def person(mesh: FaceMesh, seed: int) -> Tensor:
    """A neutral face (V, 3) cm."""
    identity = torch.randn(mesh.config.identities, generator=torch.Generator().manual_seed(seed))
    return mesh.mean + (identity @ mesh.identities().flatten(1)).view_as(mesh.mean)


@pytest.mark.parametrize("seed", range(3))
def test_pose_and_expression_are_followed(warp: ReferenceWarp, seed: int) -> None:
    wanted, turned = expressions(), angles()
    place = torch.linspace(0, 0.2, FRAMES)[:, None] * torch.tensor([1.0, -0.5]) + torch.tensor([0.0, 0.5])
    frames = seen(landmarks(warp.mesh, person(warp.mesh, seed), wanted, turned, place), turned)
    found = follow_driver(warp, meet_driver(warp, frames[0:1]), frames)
    assert torch.allclose(found.head.angles - found.head.angles[0], turned - turned[0], atol=1.0)
    assert torch.allclose(found.head.translation[:, :2] - found.head.translation[0, :2], place - place[0], atol=0.02)
    assert torch.allclose(found.head.scale, torch.full((FRAMES, 1), 0.085), rtol=0.03)
    assert found.expression is not None
    assert torch.allclose(found.expression[:, [JAW, SMILE]], wanted[:, [JAW, SMILE]], atol=0.1)
    assert torch.equal(found.motion, frames.seen.motion)


def test_frames_are_followed_each_by_itself(warp: ReferenceWarp) -> None:
    """However a stream is cut into chunks, its frames are followed alike."""
    turned = angles()
    frames = seen(landmarks(warp.mesh, person(warp.mesh, 1), expressions(), turned, torch.zeros(FRAMES, 2)), turned)
    driver = meet_driver(warp, frames[0:1])
    together = follow_driver(warp, driver, frames)
    for number in range(FRAMES):
        alone = follow_driver(warp, driver, frames[number : number + 1])
        assert torch.allclose(alone.head.angles, together.head.angles[number], atol=1e-2)
        assert alone.expression is not None
        assert together.expression is not None
        assert torch.allclose(alone.expression[0], together.expression[number], atol=1e-2)


def test_a_driver_whose_lids_touch_has_blinked_wholly(warp: ReferenceWarp) -> None:
    """Eyes of different widths close with different blinks; what drives the portrait is nearly whole for both."""
    mesh = warp.mesh
    neutral = person(mesh, 2)
    lids = mesh.landmarks.long()[[37, 38, 43, 44]]
    wide = neutral.clone()
    wide[lids, 1] -= 0.15  # cm, upwards
    for one in (neutral, wide):
        marks = mesh.landmarks.long()
        shut = torch.zeros(2, EXPRESSIONS)
        upper, lower = one[marks[[43, 44]], 1].mean(), one[marks[[46, 47]], 1].mean()
        blink = mesh.expressions(marks[[43, 44]])[BLINK_LEFT, :, 1].mean()
        shut[1, [BLINK_LEFT, BLINK_RIGHT]] = (lower - upper) / blink
        frames = seen(landmarks(mesh, one, shut, torch.zeros(2, 3), torch.zeros(2, 2)), torch.zeros(2, 3))
        found = follow_driver(warp, meet_driver(warp, frames[0:1]), frames)
        assert found.expression is not None
        assert float(found.expression[1, [BLINK_LEFT, BLINK_RIGHT]].min()) > 0.95
        assert float(found.expression[0, [BLINK_LEFT, BLINK_RIGHT]].max()) < 0.2


def test_tokens_say_what_landmarks_do_not_show(warp: ReferenceWarp) -> None:
    """A glance moves no landmark: it is the motion tokens' word."""
    turned = angles()
    frames = seen(landmarks(warp.mesh, person(warp.mesh, 0), expressions(), turned, torch.zeros(FRAMES, 2)), turned)
    told = toy_warp()
    told.expression.linear.weight.zero_()
    told.expression.linear.bias[5] = 0.6
    found = follow_driver(told, meet_driver(told, frames[0:1]), frames)
    assert found.expression is not None
    assert torch.allclose(found.expression[:, 5], torch.full((FRAMES,), 0.6 * GLANCE_GAIN), atol=0.02)
    assert torch.allclose(found.expression[:, JAW], expressions()[:, JAW], atol=0.12)


def test_a_model_without_a_warp_follows_what_its_motion_networks_see() -> None:
    networks, images = toy_networks(), torch.rand(3, 3, 32, 32)
    with torch.inference_mode():
        found, driver = follow_known(networks, None, see_driver(networks, images))
        plain = observe(networks, images)
    assert driver is None
    assert torch.equal(found.motion, plain.motion)
    assert found.expression is None
    with pytest.raises(ValueError, match="without a reference warp"):
        meet_driver(toy_warp(), see_driver(networks, images))


def test_a_driver_who_is_known_stays_who_it_is() -> None:
    networks, images = warp_networks(), torch.rand(4, 3, 64, 64)
    with torch.inference_mode():
        frames = see_driver(networks, images)
        _, driver = follow_known(networks, None, frames)
        _, still = follow_known(networks, driver, frames[2:])
    assert driver is not None
    assert still is driver
