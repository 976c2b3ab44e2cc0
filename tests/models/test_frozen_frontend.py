import copy
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    SEWConfig,
)

from ser_hf import audio
from ser_hf.audio import voice_activity
from ser_hf.models import padding
from ser_hf.models.features import Collator, front_end_of
from ser_hf.models.frozen_frontend import CacheError, FrozenFrontend
from ser_hf.training import feature_cache
from ser_hf.training.dataset import SpeechDataset, TrainingCollator

INDICES = [5, 40, 390, 405, 200]
DEPTHS = [("group", 0), ("layer", 0), *[(kind, depth) for kind in ("bert", "group", "layer") for depth in (1, 2)]]


def deep(models, kind, seed=0):
    """A small model of three layers whose answers differ from clip to clip, and its extractor."""
    config = AutoConfig.from_pretrained(models[kind])
    config.num_hidden_layers = 3
    torch.manual_seed(seed)
    model = AutoModelForAudioClassification.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and not name.startswith("classifier"):
            torch.nn.init.xavier_normal_(parameter, 2)  # layers that do something
    return model, AutoFeatureExtractor.from_pretrained(models[kind])


@torch.inference_mode()
def logits(model, clips, collate):
    return model(**collate(clips)).logits


def raw(rows, extractor):
    return [{"features": front_end_of(extractor).extract(audio.load(row["audio"]))} for row in rows]


def entries(folder):
    """The entries of a cache, without their locks."""
    return [path for path in folder.glob("*/*") if path.is_dir()]


def stored(store, rows):
    """The frames of each recording of rows."""
    return [store[sha256][0] for sha256 in rows["sha256"]]


def differ(answers):
    return float(answers.std(0).mean())


@pytest.mark.parametrize(("kind", "depth"), DEPTHS)
def test_stored_outputs_give_the_models_own_answer(rows, models, tmp_path, kind, depth):
    model, extractor = deep(models, kind)
    used = rows.select(INDICES)
    alone = [model(**Collator(extractor, "fixed length")([one])).logits for one in raw(used, extractor)]
    expected = torch.cat(alone).detach()
    rule = padding.ignore_padding(model)
    front = FrozenFrontend(model, depth)
    store, made = feature_cache.feature_cache(used, "front", model, extractor, front.outputs, tmp_path)
    assert made
    clips = SpeechDataset(rows, INDICES, extractor, store=store)
    stored = [clips[place] for place in range(len(clips))]
    lengths = [padding.frames_of(model, len(one["features"])) for one in raw(used, extractor)]
    assert [len(one["features"]) for one in stored] == lengths
    assert len(set(lengths)) > 2
    front.bypass()
    collate = Collator(extractor, rule)
    together = logits(model, stored, collate)
    one_by_one = torch.cat([logits(model, [one], collate) for one in stored])
    torch.testing.assert_close(together, one_by_one, atol=1e-4 * differ(expected), rtol=0)
    assert differ(expected) > 1e-3
    # half precision has 11 bits; what tells clips apart is far more
    torch.testing.assert_close(together, expected, atol=1e-2 * differ(expected), rtol=2e-3)


@pytest.mark.parametrize(("kind", "depth"), DEPTHS)
def test_what_is_bypassed_comes_back(rows, models, kind, depth):
    model, extractor = deep(models, kind)
    collate = Collator(extractor, padding.ignore_padding(model))
    clips = raw(rows.select(INDICES[:3]), extractor)
    modules, before = dict(model.named_modules()), logits(model, clips, collate)
    methods = {(owner, name) for owner in (model, model.base_model) for name in vars(owner)}
    front = FrozenFrontend(model, depth)
    front.bypass()
    assert dict(model.named_modules()) != modules
    front.restore()
    assert list(model.named_modules()) == list(modules.items())  # the same objects, in the same order
    assert {(owner, name) for owner in (model, model.base_model) for name in vars(owner)} == methods
    assert torch.equal(logits(model, clips, collate), before)


def test_a_bypassed_model_trains_only_what_lies_above(rows, models, tmp_path):
    model, extractor = deep(models, "group")
    rule = padding.ignore_padding(model)
    front = FrozenFrontend(model, 2)
    store, _ = feature_cache.feature_cache(rows.select(INDICES), "front", model, extractor, front.outputs, tmp_path)
    clips = SpeechDataset(rows, INDICES, extractor, store=store)
    front.bypass()
    model.train()
    model.config.apply_spec_augment, model.config.mask_time_prob = True, 0.9
    model(**TrainingCollator(extractor, rule)([clips[0], clips[2]])).loss.backward()
    front.restore()
    touched = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert touched
    assert all(".encoder.layers.2." in name or name.startswith(("projector", "classifier")) for name in touched)


def test_storing_leaves_the_model_as_it_is(rows, models, tmp_path):
    model, extractor = deep(models, "group")
    padding.ignore_padding(model)
    model.freeze_feature_encoder()
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    modules, hooks = list(model.named_modules()), len(model._forward_pre_hooks)
    model.train()
    feature_cache.feature_cache(
        rows.select(INDICES), "front", model, extractor, FrozenFrontend(model).outputs, tmp_path
    )
    assert model.training
    assert list(model.named_modules()) == modules
    assert len(model._forward_pre_hooks) == hooks
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before
    assert not any(needed for name, needed in before.items() if "feature_extractor" in name)


class Counting:
    """A front whose calls are counted."""

    def __init__(self, model):
        self.front, self.calls = FrozenFrontend(model), 0

    def __call__(self, batch):
        self.calls += 1
        return self.front.outputs(batch)


def test_what_is_stored_is_not_computed_again(rows, models, tmp_path):
    model, extractor = deep(models, "layer")
    used = rows.select(INDICES)
    compute = Counting(model)
    first, made = feature_cache.feature_cache(used, "front", model, extractor, compute, tmp_path)
    assert (made, compute.calls) == (True, 1)
    model.classifier.weight.data += 1  # the head is no part of it
    again, made = feature_cache.feature_cache(
        used.select([4, 3, 2, 1, 0]), "front", model, extractor, compute, str(tmp_path)
    )
    assert (made, compute.calls) == (False, 1)
    for sound in used["sha256"]:
        np.testing.assert_array_equal(first[sound][0], again[sound][0])
        assert first[sound][1] == again[sound][1]
    assert len(entries(tmp_path)) == 1


def test_a_second_process_waits_for_an_entry_and_reads_it(rows, models, tmp_path):
    model, extractor = deep(models, "layer")
    used = rows.select(INDICES)
    started, go_on = threading.Event(), threading.Event()
    compute = Counting(model)

    def slow(batch):
        started.set()
        assert go_on.wait(60)
        return compute(batch)

    # Locks of two threads exclude each other as those of two processes do.
    with ThreadPoolExecutor(2) as pool:
        arguments = (used, "front", model, extractor, slow, tmp_path)
        first = pool.submit(feature_cache.feature_cache, *arguments)
        assert started.wait(60)
        second = pool.submit(feature_cache.feature_cache, *arguments)
        with pytest.raises(TimeoutError):
            second.result(timeout=1)
        go_on.set()
        (computed, was_computed), (read, was_read) = first.result(60), second.result(60)
    assert (was_computed, was_read, compute.calls) == (True, False, 1)
    np.testing.assert_equal(stored(computed, used), stored(read, used))
    assert len(entries(tmp_path)) == 1


def other_weights(model, extractor, rows):
    next(model.base_model.parameters()).data.view(-1)[0] += 0.01
    return model, extractor, rows, "front"


def other_config(model, extractor, rows):
    model.config.layer_norm_eps = 1e-3
    return model, extractor, rows, "front"


def other_extractor(model, extractor, rows):
    extractor = copy.deepcopy(extractor)
    extractor.do_normalize = False
    return model, extractor, rows, "front"


def other_name(model, extractor, rows):
    return model, extractor, rows, "front bf16"


@pytest.mark.parametrize("change", [other_weights, other_config, other_extractor, other_name], ids=lambda f: f.__name__)
def test_what_changes_the_outputs_changes_the_key(rows, models, tmp_path, change):
    model, extractor = deep(models, "layer")
    used = rows.select(INDICES)
    compute = Counting(model)
    feature_cache.feature_cache(used, "front", model, extractor, compute, tmp_path)
    model, extractor, used, name = change(model, extractor, used)
    _, made = feature_cache.feature_cache(used, name, model, extractor, compute, tmp_path)
    assert (made, compute.calls) == (True, 2)
    assert len(entries(tmp_path)) == 2


def test_some_of_the_recordings_are_read_from_the_entry_of_all(rows, models, tmp_path):
    model, extractor = deep(models, "layer")
    compute = Counting(model)
    every, _ = feature_cache.feature_cache(rows.select(INDICES), "front", model, extractor, compute, tmp_path)
    some, computed = feature_cache.feature_cache(
        rows.select(INDICES[1:3]), "front", model, extractor, compute, tmp_path
    )
    assert (computed, compute.calls) == (False, 1)
    sha256 = rows[INDICES[2]]["sha256"]
    np.testing.assert_array_equal(some[sha256][0], every[sha256][0])
    more = rows.select([*INDICES[:2], 300])  # one of them is new
    _, computed = feature_cache.feature_cache(more, "front", model, extractor, compute, tmp_path)
    assert (computed, compute.calls) == (True, 2)


def test_features_of_ones_own_are_computed_under_their_own_name(rows, models, tmp_path):
    model, extractor = deep(models, "layer")
    asked = []

    def louder(samples, sha256):
        asked.append(sha256)
        return front_end_of(extractor).extract(samples * 2 + 0.1)

    used, outputs = rows.select(INDICES), FrozenFrontend(model).outputs
    plain, _ = feature_cache.feature_cache(used, "front", model, extractor, outputs, tmp_path)
    other, _ = feature_cache.feature_cache(used, "louder", model, extractor, outputs, tmp_path, louder)
    assert sorted(asked) == sorted(set(used["sha256"]))
    assert [len(frames) for frames in stored(other, used)] == [len(frames) for frames in stored(plain, used)]
    assert len(entries(tmp_path)) == 2


def test_a_sound_that_occurs_twice_is_stored_once(rows, models, tmp_path):
    model, extractor = deep(models, "layer")
    store, _ = feature_cache.feature_cache(
        rows.select([5, 9, 5, 5]), "front", model, extractor, FrozenFrontend(model).outputs, tmp_path
    )
    assert len(store) == 2
    alone, _ = feature_cache.feature_cache(
        rows.select([9]), "front", model, extractor, FrozenFrontend(model).outputs, tmp_path
    )
    np.testing.assert_allclose(store[rows[9]["sha256"]][0], alone[rows[9]["sha256"]][0], atol=2e-3)
    (folder,) = {path.parent for path in tmp_path.rglob("keys.npy") if len(np.load(path)) == 2}
    written = sum(frames.size * 2 for frames in stored(store, rows.select([5, 9])))
    assert (folder / "values-00000.f16").stat().st_size == written


@pytest.mark.parametrize(("limit", "files"), [(1, 5), (3_000, 2), (2**20, 1)])
def test_values_lie_in_files_of_a_limited_size(rows, models, tmp_path, monkeypatch, limit, files):
    model, extractor = deep(models, "layer")
    used, outputs = rows.select(INDICES), FrozenFrontend(model).outputs
    whole, _ = feature_cache.feature_cache(used, "front", model, extractor, outputs, tmp_path / "whole")
    monkeypatch.setattr(feature_cache, "SHARD_BYTES", limit)
    store, _ = feature_cache.feature_cache(used, "front", model, extractor, outputs, tmp_path / "parts")
    sizes = [path.stat().st_size for path in sorted((tmp_path / "parts").rglob("values-*.f16"))]
    assert len(sizes) >= 2 if files == 2 else len(sizes) == files
    assert all(size >= limit for size in sizes[:-1])
    np.testing.assert_equal(stored(store, used), stored(whole, used))
    assert [store[name][1] for name in used["sha256"]] == [whole[name][1] for name in used["sha256"]]
    with pytest.raises(KeyError, match="unknown"):
        store["unknown"]


def test_what_is_half_written_is_no_store(rows, models, tmp_path):
    model, extractor = deep(models, "layer")
    used = rows.select(INDICES)

    def broken(batch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        feature_cache.feature_cache(used, "front", model, extractor, broken, tmp_path)
    assert not entries(tmp_path)
    whole, _ = feature_cache.feature_cache(used, "front", model, extractor, FrozenFrontend(model).outputs, tmp_path)
    expected = stored(whole, used)
    del whole  # or its file would be cut off while it is mapped
    (folder,) = entries(tmp_path)
    (folder / "index.json").unlink()
    (folder / "values-00000.f16").write_bytes(b"\0\0")
    store, made = feature_cache.feature_cache(used, "front", model, extractor, FrozenFrontend(model).outputs, tmp_path)
    assert made
    np.testing.assert_equal(stored(store, used), expected)
    assert json.loads((folder / "index.json").read_text())["shape"] == [16]


def test_the_voice_is_found_in_frames(rows, models, tmp_path):
    model, extractor = deep(models, "layer")
    store, _ = feature_cache.feature_cache(
        rows.select(INDICES), "front", model, extractor, FrozenFrontend(model).outputs, tmp_path
    )
    for index in INDICES:
        samples = audio.load(rows[index]["audio"])
        first, last = voice_activity.voiced_span(samples)
        frames, (start, end) = store[rows[index]["sha256"]]
        per_frame = len(samples) / len(frames)
        assert 0 <= start < end <= len(frames)
        assert start == pytest.approx(first / per_frame, abs=1)
        assert end == pytest.approx(last / per_frame, abs=1)


def test_values_beyond_half_precision_are_refused(rows, models, tmp_path):
    model, extractor = deep(models, "layer")
    with pytest.raises(CacheError, match=r"^the frozen part's values do not fit half precision: .*false$"):
        feature_cache.feature_cache(
            rows.select([5]), "front", model, extractor, lambda b: [torch.full((3, 4), 1e6)], tmp_path / "cache"
        )
    assert not entries(tmp_path / "cache")


def test_unknown_fronts_are_refused(models):
    convolutions = {"conv_dim": (16,), "conv_kernel": (10,), "conv_stride": (10,), "num_conv_pos_embedding_groups": 2}
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    squeezed = AutoModelForAudioClassification.from_config(SEWConfig(**sizes, **convolutions))
    for depth in (0, 1):
        with pytest.raises(CacheError, match=r"^the front of a sew cannot be cached: pass --cache_frozen false$"):
            FrozenFrontend(squeezed, depth)
    with pytest.raises(CacheError, match=r"^the front of a wav2vec2-bert cannot be cached"):
        FrozenFrontend(deep(models, "bert")[0], 0)  # one matrix product lies before its layers
