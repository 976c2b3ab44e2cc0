"""The objective of pretraining, against a plain computation and against transformers, and what it
is drawn from."""

import math

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2ForPreTraining
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2GumbelVectorQuantizer

from ser_hf.models.features import front_end_of
from ser_hf.training.pretraining import objective, pretrain
from ser_hf.training.pretraining.masking import Masking, Order
from ser_hf.training.pretraining.objective import Codebook, contrastive

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = ("bert", "group", "layer")


def clips(model, extractor, seconds=(1.2, 0.9, 1.0), seed=0):
    """A batch of noise as the collator gives it."""
    rng = np.random.default_rng(seed)
    made = [rng.normal(size=int(length * 16_000)).astype(np.float32) * 0.1 for length in seconds]
    masking = Masking(model, extractor, seed, negatives=7)
    heard = [front_end_of(extractor).extract(samples) for samples in made]
    return masking([{"features": each, "draw": (0, number)} for number, each in enumerate(heard)])


def answer(model, batch):
    out = model(**{name: value for name, value in batch.items() if name != "negatives"})
    losses, right = contrastive(
        out.projected_states,
        out.projected_quantized_states,
        model.quantizer.codewords,
        batch["negatives"],
        batch["mask_time_indices"],
    )
    return out, losses, right


def test_the_loss_is_that_of_a_plain_computation():
    rng = torch.Generator().manual_seed(0)
    predicted, targets = (torch.randn(2, 6, 3, generator=rng) for _ in range(2))
    mask = torch.tensor([[1, 1, 0, 1, 1, 0], [0, 1, 1, 1, 0, 0]]).bool()
    negatives = torch.tensor([[[1, 3, 3], [0, 4, 3], [0, 0, 0], [0, 1, 4], [0, 1, 3], [0, 0, 0]]] * 2)
    codewords = torch.tensor([[5, 6, 7, 5, 8, 9], [1, 1, 2, 3, 4, 5]])  # frames 0 and 3 of the first clip are alike
    losses, right = contrastive(predicted, targets, codewords, negatives, mask, temperature=0.1)

    def cosine(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    p, q = predicted.tolist(), targets.tolist()
    for clip in range(2):
        for frame in range(6):
            own = math.exp(cosine(p[clip][frame], q[clip][frame]) / 0.1)
            others = [
                math.exp(cosine(p[clip][frame], q[clip][other]) / 0.1)
                for other in negatives[clip, frame].tolist()
                if codewords[clip, other] != codewords[clip, frame]
            ]
            expected = -math.log(own / (own + sum(others))) if mask[clip, frame] else 0.0
            assert losses[clip, frame].item() == pytest.approx(expected, abs=1e-5)
            assert right[clip, frame].item() == bool(mask[clip, frame] and others and own > max(others))


def test_only_masked_frames_count():
    rng = torch.Generator().manual_seed(1)
    predicted, targets = (torch.randn(1, 8, 4, generator=rng) for _ in range(2))
    mask = torch.zeros(1, 8, dtype=torch.bool)
    mask[0, 2:6] = True
    negatives = torch.randint(2, 6, (1, 8, 5), generator=rng)
    codewords = torch.arange(8)[None]
    losses, _ = contrastive(predicted, targets, codewords, negatives, mask)
    predicted[~mask], targets[~mask] = 9.0, float("inf")
    again, _ = contrastive(predicted, targets, codewords, negatives, mask)
    assert torch.equal(losses, again)
    assert (losses[~mask] == 0).all()


def test_a_codebook_that_has_collapsed_is_never_right():
    same = torch.ones(1, 4, 3)
    losses, right = contrastive(
        same, same, torch.zeros(1, 4, dtype=torch.long), torch.tensor([[[1], [2], [3], [0]]]), torch.ones(1, 4).bool()
    )
    assert losses.sum() == 0
    assert not right.any()


def test_codebook_and_loss_are_those_of_transformers(models):
    model, extractor, _ = objective.load(models["layer"], 0)
    batch = clips(model, extractor)
    model.eval()
    stock = Wav2Vec2ForPreTraining(model.config).eval()
    stock.load_state_dict(model.state_dict())
    frames = batch["mask_time_indices"].shape[1]
    inputs = {name: batch[name] for name in ("input_values", "attention_mask", "mask_time_indices")}
    rows = torch.arange(len(batch["negatives"]))[:, None, None]
    theirs = stock(**inputs, sampled_negative_indices=batch["negatives"] + rows * frames)
    out, losses, _ = answer(model, batch)
    torch.testing.assert_close(losses.sum(), theirs.contrastive_loss)
    torch.testing.assert_close(out.codevector_perplexity, theirs.codevector_perplexity)

    hidden = torch.randn(3, 11, model.config.conv_dim[-1])
    mask = torch.rand(3, 11) > 0.5
    ours, plain = Codebook(model.config), Wav2Vec2GumbelVectorQuantizer(model.config)
    torch.nn.init.normal_(plain.codevectors)
    ours.load_state_dict(plain.state_dict())
    for training in (True, False):
        answers = []
        for book in (ours.train(training), plain.train(training)):
            torch.manual_seed(3)  # the same noise
            answers.append(book(hidden, mask_time_indices=mask))
        torch.testing.assert_close(*answers)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_does_not_change_the_loss(models, kind):
    model, extractor, _ = objective.load(models[kind], 0)
    batch = clips(model, extractor)
    model.eval()
    _, together, right = answer(model, batch)
    name = extractor.model_input_names[0]
    for row in range(3):
        length = int(batch["attention_mask"][row].sum())
        frames = int(model._get_feat_extract_output_lengths(torch.tensor(length)))
        assert not batch["mask_time_indices"][row, frames:].any()
        alone = {key: value[row : row + 1, :frames] for key, value in batch.items()}
        alone |= {key: batch[key][row : row + 1, :length] for key in (name, "attention_mask")}
        _, losses, hits = answer(model, alone)
        torch.testing.assert_close(losses[0], together[row, :frames], atol=1e-4, rtol=1e-4)
        assert torch.equal(hits[0], right[row, :frames])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_masked_is_not_heard(models, kind):
    model, extractor, kept = objective.load(models[kind], 0)
    assert kept["apply_spec_augment"] is False  # with which transformers would mask nothing
    batch = clips(model, extractor)
    model.eval()
    out, losses, _ = answer(model, batch)
    losses.sum().backward()
    assert model.base_model.masked_spec_embed.grad.abs().min() > 0
    if kind == "bert":
        batch["input_features"] = batch["input_features"].where(~batch["mask_time_indices"][..., None], 7.0)
        torch.testing.assert_close(answer(model, batch)[0].projected_states, out.projected_states)


@pytest.mark.parametrize("kind", ["bert", "layer"])
def test_the_loss_falls(models, kind):
    model, extractor, _ = objective.load(models[kind], 0)
    batch = clips(model.train(), extractor)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        loss = answer(model, batch)[1].sum() / batch["mask_time_indices"].sum()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.3


def test_draws_are_of_the_clip_alone(models):
    model, extractor, _ = objective.load(models["bert"], 0)
    masking = Masking(model, extractor, 1)
    assert masking.length == 5  # frames of 40 ms
    before = np.random.get_state()[1].copy()
    mask, negatives = masking.draw(60, 0, 3)
    assert (np.random.get_state()[1] == before).all()
    assert 0.2 < mask.mean() < 0.65
    chosen = negatives[mask]
    assert mask[chosen].all()
    assert (chosen != np.flatnonzero(mask)[:, None]).all()
    for other in ((1, 3), (0, 4)):
        assert (masking.draw(60, *other)[0] != mask).any()
    assert (masking.draw(60, 0, 3)[1] == negatives).all()
    for frames in range(2, 12):
        assert 2 <= masking.draw(frames, 0, 0)[0].sum() <= frames
    frame = np.zeros((1, 320), dtype=np.float32)
    batch = masking([{"features": frame, "draw": (0, 0)}, {"features": np.repeat(frame, 9, 0), "draw": (0, 3)}])
    assert batch["mask_time_indices"].any(1).tolist() == [False, True]  # one frame has nothing to be told from


def test_clips_come_once_an_epoch_beside_others_of_like_length():
    durations = np.random.default_rng(0).uniform(1, 5, size=100)
    order = Order(durations, 8, seed=0)
    first = list(order)
    order.set_epoch(1)
    second = list(order)
    assert [epoch for epoch, _ in second] == [1] * 100
    assert sorted(number for _, number in first) == sorted(number for _, number in second) == list(range(100))
    assert [number for _, number in first] != [number for _, number in second]
    batches = [durations[[number for _, number in first[start : start + 8]]] for start in range(0, 64, 8)]
    assert np.mean([np.ptp(batch) for batch in batches]) < 1.5
    assert [number for _, number in Order(durations, 1, None)] == np.argsort(durations).tolist()


def test_the_codebook_cools(models):
    model, _, _ = objective.load(models["bert"], 0)
    state, temperatures = type("State", (), {"max_steps": 11})(), []
    for state.global_step in range(11):
        pretrain.Cooling().on_step_begin(None, state, None, model=model)
        temperatures.append(model.quantizer.temperature)
    assert temperatures[0] == 2.0
    assert temperatures[5] == pytest.approx(1.0)  # half of the way from 2 to a quarter of it
    assert temperatures[10] == pytest.approx(0.5)
