import numpy as np

from ser_hf import augment
from ser_hf.augment import GAIN_DB, SNR_DB, SPEED


def spoken(seconds=1.0):
    return np.sin(2 * np.pi * 300 * np.arange(int(16_000 * seconds)) / 16_000).astype(np.float32) * 0.1


def test_the_same_generator_gives_the_same_clip():
    one, same, other = (augment.augment(spoken(), np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert one.dtype == np.float32
    assert len(one) != len(other)


def test_speed_changes_length_and_pitch_together():
    for seed in range(20):
        changed = augment.augment(spoken(), np.random.default_rng(seed))
        speed = 16_000 / len(changed)
        assert SPEED[0] - 1e-3 <= speed <= SPEED[1] + 1e-3
        peak = np.fft.rfft(changed, 16_000).__abs__().argmax()
        assert abs(peak - 300 * speed) <= 1


def test_loudness_stays_within_its_bounds():
    level = np.sqrt(np.mean(spoken() ** 2))
    loudest = level * 10 ** (GAIN_DB[1] / 20) * np.sqrt(1 + 10 ** (-SNR_DB[0] / 10))
    levels = [np.sqrt(np.mean(augment.augment(spoken(), np.random.default_rng(s)) ** 2)) for s in range(50)]
    assert max(levels) <= loudest * 1.01
    assert min(levels) >= level * 10 ** (GAIN_DB[0] / 20) * 0.99
    assert max(levels) / min(levels) > 2
