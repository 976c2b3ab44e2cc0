import pickle

import numpy as np
import pytest
import soundfile
from scipy import signal

from ser_hf.audio import effects, voice_activity
from ser_hf.audio.effects import AugmentError
from ser_hf.errors import UserError
from ser_hf.training.augmentation import from_folder, mix_waveforms, needs_noise, parse, silences

ALL = "speed,room,noise,clip,codec,mp3,opus,gain"


def seeded(seed=0):
    return np.random.default_rng(seed)


def white(samples=48_000, seed=0, level=0.1):
    return (level * seeded(seed).normal(size=samples)).astype(np.float32)


def sine(frequency, samples=48_000):
    return (0.3 * np.sin(2 * np.pi * frequency * np.arange(samples) / 16_000)).astype(np.float32)


def pitch(samples):
    """Of a sine, in Hz, within the width of a bin."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return spectrum.argmax() * 16_000 / len(samples)


def decibel(samples):
    return 10 * np.log10(np.mean(np.square(samples, dtype=np.float64)))


def spectrum(samples):
    """Frequencies in Hz, and dB against the median between 500 and 3000 Hz."""
    frequencies, density = signal.welch(samples, 16_000, nperseg=2_048, detrend=False)
    inside = np.median(density[(frequencies > 500) & (frequencies < 3_000)])
    return frequencies, 10 * np.log10(density / inside)


NOISES = [white(160_000, seed=7), white(160_000, seed=8)]
ONCE = {
    "speed": effects.speed,
    "gain": effects.gain,
    "noise": lambda samples, rng: effects.noise(samples, rng, NOISES),
    "room": effects.room,
    "clip": effects.clipping,
    "codec": effects.codec,
    "mp3": effects.mp3,
    "opus": effects.opus,
    "all": parse(ALL, NOISES, probability=1),
}


@pytest.mark.parametrize("name", ONCE)
def test_the_seed_decides_and_the_input_stays(name):
    clip = np.pad(white(), 4_000)
    kept = clip.copy()
    one, same = (ONCE[name](clip, seeded(1)) for _ in range(2))
    np.testing.assert_array_equal(one, same)
    np.testing.assert_array_equal(clip, kept)
    assert one.dtype == np.float32
    assert np.isfinite(one).all()
    others = [ONCE[name](clip, seeded(seed)) for seed in range(2, 6)]
    assert any(not np.array_equal(one, other) for other in others) is (name != "codec")


@pytest.mark.parametrize("name", ONCE)
@pytest.mark.parametrize("samples", [0, 1, 399, 400, 401, 4_000])
def test_silent_and_short_clips_give_no_nan(name, samples):
    for clip in (np.zeros(samples, dtype=np.float32), white(samples)):
        for seed in range(3):
            out = ONCE[name](clip, seeded(seed))
            assert np.isfinite(out).all()
            assert len(out) >= (400 if samples >= 400 else samples / 1.1)
            assert not out.any() if not clip.any() else out.any() or samples < 399  # codecs lose a few samples


def test_speed_moves_length_and_pitch_along():
    lengths = set()
    for seed in range(40):
        out = effects.speed(sine(1_000), seeded(seed), 0.06)
        lengths.add(len(out))
        assert pitch(out) == pytest.approx(1_000 * 48_000 / len(out), abs=1)
    factors = (0.94, 0.96, 0.98, 1.02, 1.04, 1.06)
    assert lengths == {-(-48_000 * 100 // round(100 * factor)) for factor in factors}
    by_default = [len(effects.speed(white(), seeded(seed))) for seed in range(80)]
    assert (len(set(by_default)), min(by_default), max(by_default)) == (10, 43_637, 53_334)  # 0.9 to 1.1, without 1


def test_gain_is_the_decibels_that_were_drawn():
    clip = white()
    for seed in range(5):
        drawn = seeded(seed).uniform(-6, 6)
        assert decibel(effects.gain(clip, seeded(seed))) - decibel(clip) == pytest.approx(drawn, abs=1e-3)
    drawn = [decibel(effects.gain(clip, seeded(seed), 20)) - decibel(clip) for seed in range(200)]
    assert min(drawn) == pytest.approx(-20, abs=1)
    assert max(drawn) == pytest.approx(20, abs=1)
    assert np.abs(effects.gain(np.float32([0.9]), seeded(2), 6)).max() <= 0.9 * 10**0.3


@pytest.mark.parametrize("ratio", [0, 15, 30])
@pytest.mark.parametrize("length", [1_000, 47_999, 48_000, 200_000])
def test_noise_lies_below_the_voice_as_asked(ratio, length):
    clip = sine(300)
    clip[:20_000] = 0  # silence does not count as signal
    out = effects.noise(clip, seeded(3), [white(length, level=2.0)], ratio, ratio)
    start, end = voice_activity.voiced_span(clip)
    assert start > 18_000
    assert decibel(clip[start:end]) - decibel(out - clip) == pytest.approx(ratio, abs=0.5)


def test_noise_ratios_fill_their_range():
    clip = sine(300)
    ratios = [decibel(clip) - decibel(effects.noise(clip, seeded(s), NOISES) - clip) for s in range(100)]
    assert 9.5 < min(ratios) < 12
    assert 28 < max(ratios) < 30.5
    assert np.mean(ratios) == pytest.approx(20, abs=2)


def test_a_short_noise_starts_over_without_a_click():
    ramp = np.linspace(-1, 1, 1_000, dtype=np.float32)  # its end and its start lie far apart
    clip = sine(300)
    added = effects.noise(clip, seeded(0), [ramp], 10, 10) - clip
    assert np.abs(np.diff(added)).max() < 0.01 * np.ptp(added)
    assert np.ptp(added[:2_000]) == pytest.approx(np.ptp(added[-2_000:]), rel=1e-3)


def test_noises_and_their_stretches_are_random():
    clip = sine(300)
    levels = [np.full(96_000, level, dtype=np.float32) for level in (-1, 1)]
    signs = {float(np.sign((effects.noise(clip, seeded(s), levels) - clip).mean())) for s in range(20)}
    assert signs == {-1.0, 1.0}
    one, other = (effects.noise(clip, seeded(s), NOISES[:1], 10, 10) - clip for s in (0, 1))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.1


def test_a_silent_noise_adds_nothing():
    clip = sine(300)
    np.testing.assert_array_equal(effects.noise(clip, seeded(), [np.zeros(500, dtype=np.float32)]), clip)
    np.testing.assert_array_equal(effects.noise(clip, seeded(), [np.zeros(0, dtype=np.float32)]), clip)


def fall(impulse):
    """RT60 in seconds, from -5 to -25 dB of Schroeder's backward integral of an impulse
    response."""
    left = np.cumsum(np.square(impulse[1:], dtype=np.float64)[::-1])[::-1]  # the direct path is no decay
    level = 10 * np.log10(left[left > 0] / left[0])
    return 3 * (np.argmax(level < -25) - np.argmax(level < -5)) / 16_000


def test_a_room_decays_as_it_was_drawn():
    click = np.zeros(32_000, dtype=np.float32)
    click[100] = 1
    times = []
    for seed in range(20):
        out = effects.room(click, seeded(seed), 1.0)
        assert np.abs(out).argmax() == 100  # the direct path comes first and is the loudest
        assert np.abs(out[:100]).max() < 1e-6
        assert out[100] ** 2 == pytest.approx(0.5, abs=1e-3)
        drawn = 1.0 - 0.9 * seeded(seed).random()
        assert fall(out[100:]) == pytest.approx(drawn, rel=0.15)
        times.append(drawn)
    assert min(times) < 0.3 < 0.8 < max(times)


def test_a_room_keeps_length_and_level_and_fills_the_pause():
    clip = white()
    clip[24_000:] = 0
    for seed in range(5):
        out = effects.room(clip, seeded(seed))
        assert len(out) == len(clip)
        assert decibel(out) == pytest.approx(decibel(clip), abs=0.01)
        assert decibel(out[24_000:24_800]) > decibel(out[:24_000]) - 20  # was silent
        assert decibel(out[32_000:]) < decibel(out[:24_000]) - 60  # and is, once the room has rung out


def test_a_telephone_carries_its_band_alone():
    clip = white(160_000)
    out = effects.codec(clip, seeded())
    assert len(out) == len(clip)
    frequencies, before = spectrum(clip)
    _, after = spectrum(out)
    assert after[(frequencies < 250) | (frequencies > 3_750)].max() < -35
    inside = (frequencies > 350) & (frequencies < 3_300)
    assert np.abs(after - before)[inside].max() < 2
    assert len(effects.codec(clip[:47_999], seeded())) == 47_999


def test_a_telephone_distorts_as_much_at_any_level():
    voice = sine(1_000)
    loud, soft = (effects.codec(voice * np.float32(level), seeded()) for level in (30.0, 1e-4))
    np.testing.assert_allclose(loud / 30, soft / 1e-4, atol=1e-3)
    heard = effects.codec(voice, seeded())[8_000:]  # once the filters have settled
    bins = np.square(np.abs(np.fft.rfft(heard * np.hanning(len(heard)))))
    near = slice(bins.argmax() - 5, bins.argmax() + 6)
    assert 33 < 10 * np.log10(bins[near].sum() / (bins.sum() - bins[near].sum())) < 45  # 8 bits of mu-law: 38 dB


def test_mu_law_is_that_of_g711(tmp_path):
    """libsndfile has the tables of the standard."""
    pcm = (np.arange(-32_764, 32_765, 4) / 32_768).astype(np.float32)
    soundfile.write(tmp_path / "law.au", pcm, 8_000, subtype="ULAW")
    standard, _ = soundfile.read(tmp_path / "law.au", dtype="float32")
    ours = effects._mu_law(pcm)
    np.testing.assert_array_equal(np.unique(ours), np.unique(standard))
    assert np.abs(ours - pcm).max() <= np.abs(standard - pcm).max()
    assert (ours == standard).mean() > 0.97  # but for samples on the border of two steps
    assert effects._mu_law(np.zeros(3, dtype=np.float32)).tolist() == [0, 0, 0]


def test_clipping_takes_up_to_its_share_of_the_voice():
    clip, shares = white(16_000), []
    for seed in range(100):
        out = effects.clipping(clip, seeded(seed), 0.2)
        drawn = 0.2 * (1 - seeded(seed).random())
        shares.append((out != clip).mean())
        assert shares[-1] == pytest.approx(drawn, abs=1e-3)
        assert np.abs(out).max() == np.abs(out[out != clip]).min()
    assert min(shares) < 0.02 < 0.18 < max(shares) <= 0.2


def test_an_offset_is_one_constant_of_either_sign():
    clip, added = white(1_000), []
    for seed in range(100):
        change = effects.offset(clip, seeded(seed), 0.05) - clip
        assert np.ptp(change) < 1e-6
        added.append(float(change.mean()))
    assert -0.05 < min(added) < -0.04
    assert 0.04 < max(added) < 0.05
    assert effects.offset(clip, seeded()).dtype == np.float32
    by_name = parse("offset:0.05", probability=1)
    rng = seeded(3)
    rng.random()  # whether to apply it
    np.testing.assert_array_equal(by_name(clip, seeded(3)), effects.offset(clip, rng, 0.05))


@pytest.mark.parametrize(("name", "apply"), [("MP3", effects.mp3), ("OPUS", effects.opus)])
def test_the_rate_of_a_codec_is_drawn_from_its_range(name, apply):
    clip = white(16_000)
    np.testing.assert_array_equal(
        apply(clip, seeded(1), 20, 40), effects.encoded(clip, seeded(1).uniform(20, 40), name)
    )
    loss = [decibel(apply(clip, seeded(), rate, rate) - clip) for rate in (9, 48)]
    assert loss[0] > loss[1] + 1


def test_mixup_is_a_weighted_sum():
    one, other = white(1_000), white(1_500, seed=1)
    np.testing.assert_allclose(mix_waveforms(one, other, 0.7), 0.7 * one + 0.3 * other[:1_000], atol=1e-7)
    mixed = mix_waveforms(other, one, 0.25)
    np.testing.assert_allclose(mixed[:1_000], 0.25 * other[:1_000] + 0.75 * one, atol=1e-7)
    np.testing.assert_allclose(mixed[1_000:], 0.25 * other[1_000:], atol=1e-7)
    assert mixed.dtype == np.float32
    np.testing.assert_array_equal(mix_waveforms(one, other, 1.0), one)


def test_the_order_is_fixed_whatever_is_written():
    clip = white()
    orders = (ALL, "opus,gain,codec,noise,mp3,room,clip,speed", " noise, gain ,mp3,room,speed,opus,codec,clip")
    one, two, three = (parse(text, NOISES, probability=1)(clip, seeded(4)) for text in orders)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, three)
    rng, out = seeded(4), clip
    for step in ALL.split(","):
        rng.random()  # whether to apply it
        out = ONCE[step](out, rng)
    np.testing.assert_array_equal(one, out)


def test_strengths_are_those_written():
    made = parse("codec,gain:3,noise:-5-7.5,room:.7,speed:0.2", NOISES)
    written = {"speed": (0.2,), "room": (0.7,), "noise": (-5.0, 7.5), "codec": (), "gain": (3.0,)}
    assert list(made.strengths.items()) == list(written.items())
    loud = parse("gain:40", probability=1)
    assert max(np.abs(loud(white(), seeded(seed))).max() for seed in range(5)) > 2  # and nothing clips


@pytest.mark.parametrize("probability", [0.2, 0.5, 1])
def test_each_is_applied_with_the_probability(probability):
    augmentation = parse("gain", probability=probability)
    clip, rng = white(1_000), seeded()
    changed = np.mean([augmentation(clip, rng) is not clip for _ in range(1_000)])
    assert changed == pytest.approx(probability, abs=0.05)


def test_one_may_have_a_probability_of_its_own():
    augmentation = parse("gain:6@1,codec@0.25", probability=0.5)
    assert augmentation.strengths == {"gain": (6.0,), "codec": ()}
    rng, drawn = np.random.default_rng(0), []
    for _ in range(2_000):
        drawn += list(augmentation._draw_names(False, rng))
    assert drawn.count("gain") == 2_000
    assert drawn.count("codec") == pytest.approx(500, abs=60)


@pytest.mark.parametrize("text", ["gain:6@0", "gain@1.1", "gain:6@", "gain@x", "gain@-1"])
def test_a_probability_that_is_none_is_named(text):
    with pytest.raises(effects.AugmentError, match="no probability"):
        parse(text)


def test_a_clip_never_falls_below_a_frame():
    augmentation = parse("speed:0.5", probability=1)
    lengths = [len(augmentation(white(410), seeded(seed))) for seed in range(30)]
    assert min(lengths) >= 400
    assert max(lengths) > 600


def test_an_augmentation_goes_to_worker_processes():
    made = parse(ALL, NOISES)
    again = pickle.loads(pickle.dumps(made))
    np.testing.assert_array_equal(again(white(), seeded(2)), made(white(), seeded(2)))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "speed,echo",
            "'echo' is no augmentation: choose from speed, room, noise, clip, offset, codec, mp3",
        ),
        ("", "'' is no augmentation"),
        ("gain,", "'' is no augmentation"),
        ("gain,speed,gain:3", "'gain' stands twice"),
        ("speed:fast", "'speed:fast' is no strength of speed: expected a share from 0.02 to 0.5"),
        ("speed:0.01", "0.02 to 0.5"),
        ("speed:0.6", "0.02 to 0.5"),
        ("gain:", "'gain:' is no strength of gain"),
        ("gain:nan", "0.1 to 40 dB"),
        ("gain:-6", "0.1 to 40 dB"),
        ("room:0.05", "0.1 to 5 seconds"),
        ("room:99", "0.1 to 5 seconds"),
        ("noise:10", "two numbers of dB"),
        ("noise:30-10", "the lower first"),
        ("noise:10-300", "from -20 to 60"),
        ("codec:8", "'codec:8' has a strength, and codec takes none: write codec"),
    ],
)
def test_what_cannot_be_is_named(text, says):
    for refused in (lambda: parse(text, NOISES), lambda: needs_noise(text)):
        with pytest.raises(AugmentError) as caught:
            refused()
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)
    assert issubclass(AugmentError, UserError)


@pytest.mark.parametrize("probability", [0, -0.1, 1.01, float("nan")])
def test_probabilities_lie_between_0_and_1(probability):
    with pytest.raises(AugmentError, match=f"probability of augmentation is {probability}: expected more than 0"):
        parse("gain", probability=probability)


def test_noise_needs_noises():
    assert needs_noise("gain,noise:5-10")
    assert not needs_noise("gain,codec")
    for noises in ((), [np.zeros(0, dtype=np.float32)]):
        with pytest.raises(AugmentError, match="'noise' in 'gain,noise' has no noises to add: name a folder"):
            parse("gain,noise", noises)


def test_the_silence_of_a_corpus_is_collected_until_there_is_enough():
    taken = []

    def clips():
        for seed in range(100):
            taken.append(seed)
            yield np.pad(sine(300, 16_000), 16_000) + white(48_000, seed, level=1e-4)

    found = silences(clips(), seconds=5)
    assert sum(map(len, found)) == 80_000
    assert len(taken) == 3  # two edges of a little less than a second each
    assert all(stretch.base is None and np.abs(stretch).max() < 1e-3 for stretch in found)
    everything = silences(clips(), seconds=1e6)
    assert len(everything) == 200
    digital = [np.pad(sine(300, 16_000), 16_000)] * 3
    assert silences(digital) == []


def test_a_folder_of_noises_is_read_in_order(tmp_path):
    (tmp_path / "b").mkdir()
    soundfile.write(tmp_path / "b" / "deep.wav", white(8_000, seed=1), 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "a.FLAC", white(44_100, seed=2), 44_100, format="FLAC")
    (tmp_path / "._a.wav").write_bytes(b"of macOS")
    (tmp_path / "notes.txt").write_text("no audio")
    first, second = from_folder(tmp_path)
    assert len(first) == 16_000
    np.testing.assert_allclose(second, white(8_000, seed=1) - white(8_000, seed=1).mean(), atol=1e-7)


def test_a_folder_without_noises_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("no audio")
    with pytest.raises(AugmentError, match="holds no audio files"):
        from_folder(tmp_path)
    for missing in (tmp_path / "missing", tmp_path / "notes.txt"):
        with pytest.raises(AugmentError, match=f"'{missing}' is not a folder: check the path"):
            from_folder(str(missing))
