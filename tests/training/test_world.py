"""The procedural world: determinism, stationary motion, held-out split, captions."""

import numpy as np
import pytest

from training.sprites import world

pytestmark = pytest.mark.fast


def test_render_is_a_pure_function_of_spec_and_seed():
    spec = world.Spec("ball", "red", "bouncing", "sea")
    first = world.render(spec, 7)
    assert first.shape == (16, 64, 64, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, world.render(spec, 7))
    assert not np.array_equal(first, world.render(spec, 8))


def test_a_window_is_a_cut_of_the_endless_video():
    spec = world.Spec("star", "white", "circling", "city")
    long = world.render(spec, 3, frames=48)
    assert np.array_equal(long[20:36], world.render(spec, 3, start=20))


@pytest.mark.parametrize("motion", world.MOTIONS)
def test_sprite_stays_inside_and_never_leaps(motion):
    for seed in range(50):
        path = world.centres(world.Spec("box", "yellow", motion, "meadow"), seed, frames=96)
        assert path.min() > 10.0
        assert path.max() < world.FRAME_SIZE - 10.0
        assert np.hypot(*np.diff(path, axis=0).T).max() < 6.5


def test_every_pair_of_attributes_is_trained():
    trained = [spec.indices for spec in world.training_specs()]
    sizes = (len(world.SHAPES), len(world.COLOURS), len(world.MOTIONS), len(world.BACKGROUNDS))
    for a in range(4):
        for b in range(a):
            assert len({(spec[a], spec[b]) for spec in trained}) == sizes[a] * sizes[b]


def test_held_out_combinations_are_never_trained():
    assert len(world.all_specs()) == 144
    assert len(world.held_out_specs()) == 36
    assert not set(world.held_out_specs()) & set(world.training_specs())


def test_held_out_prompts_are_fixed_and_cover_every_class():
    prompts = world.held_out_prompts()
    assert len(prompts) == 64
    assert len({prompt.seed for prompt in prompts}) == 64
    assert all(prompt.spec.held_out for prompt in prompts)
    assert {prompt.spec.motion for prompt in prompts} == set(world.MOTIONS)
    assert prompts[0].text == prompts[0].spec.caption()
    assert world.held_out_prompts(12)[0] == prompts[0]


def test_captions_say_the_spec_in_the_vocabulary():
    spec = world.Spec("ball", "red", "bouncing", "sea")
    assert spec.caption() == "a red ball bouncing over the sea"
    words = set(world.vocabulary())
    rng = np.random.default_rng(0)
    for spec in world.all_specs():
        said = world.random_caption(spec, rng).split()
        assert {spec.shape, spec.colour, spec.motion, spec.background} <= set(said) <= words


def test_texture_differs_from_video_to_video():
    spec = world.Spec("ball", "purple", "hovering", "sea")
    pictures = [world.render(spec, seed, frames=1)[0].astype(int) for seed in range(8)]
    differences = [np.abs(a - b).mean() for n, a in enumerate(pictures) for b in pictures[:n]]
    assert min(differences) > 2.0
