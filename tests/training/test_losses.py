import datasets
import numpy as np
import pytest
import torch
from torch.nn import functional

from ser_hf.training.losses import Objective, ObjectiveError, clip_weights, group_weights, training_weights

LOGITS = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)) * 3
LABELS = torch.tensor([0, 3, 7, 7, 2, 5])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_it_is_cross_entropy(smoothing):
    stock = functional.cross_entropy(LOGITS, LABELS, label_smoothing=smoothing, reduction="none")
    torch.testing.assert_close(Objective(smoothing)(LOGITS, LABELS), stock)


def test_gradients_are_those_of_cross_entropy():
    ours, stock = LOGITS.clone().requires_grad_(), LOGITS.clone().requires_grad_()
    Objective(0.1)(ours, LABELS).mean().backward()
    functional.cross_entropy(stock, LABELS, label_smoothing=0.1).backward()
    torch.testing.assert_close(ours.grad, stock.grad)


def test_focal_loss_without_focus_is_cross_entropy():
    stock = functional.cross_entropy(LOGITS, LABELS, reduction="none")
    torch.testing.assert_close(Objective(focus=0.0)(LOGITS, LABELS), stock)


def test_focal_loss_is_that_of_its_formula():
    """Probabilities 0.8 and 0.2 of the right label: 0.2² · -ln 0.8 = 0.0089257 and 0.8² · -ln 0.2 =
    1.0300403."""
    logits = torch.tensor([[0.8, 0.2], [0.8, 0.2]]).log() + 5
    losses = Objective(focus=2.0)(logits, torch.tensor([0, 1]))
    assert losses.tolist() == pytest.approx([0.0089257, 1.0300403], rel=1e-5)


def test_focal_loss_of_a_sure_answer_has_a_gradient():
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    Objective(focus=0.5)(logits, torch.tensor([0])).sum().backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("how", [{}, {"smoothing": 0.1}, {"focus": 2.0}])
def test_mixed_clips_have_the_weighted_sum_of_two_losses(how):
    other, share = torch.tensor([1, 3, 0, 6, 2, 4]), torch.tensor([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    loss = Objective(**how)
    expected = share * loss(LOGITS, LABELS) + (1 - share) * loss(LOGITS, other)
    torch.testing.assert_close(loss(LOGITS, LABELS, other, share), expected)


def test_half_precision_is_summed_in_full():
    low = LOGITS.bfloat16()
    assert Objective()(low, LABELS).dtype == torch.float32
    torch.testing.assert_close(Objective()(low, LABELS), Objective()(low.float(), LABELS))


CORPORA = ["ravdess"] * 30 + ["tess"] * 10
GROUPED = datasets.Dataset.from_dict({"corpus": CORPORA, "label": [0] * 20 + [1] * 10 + [0] * 2 + [1] * 8})


@pytest.mark.parametrize(
    ("balance", "keys"),
    [("label", ("label",)), ("corpus", ("corpus",)), ("both", ("corpus", "label"))],
)
def test_balanced_groups_weigh_the_same(balance, keys):
    given = clip_weights(GROUPED, balance)
    assert given.shape == (40,)
    assert given.mean() == pytest.approx(1)
    sums = {}
    for weight, key in zip(given, zip(*(GROUPED[name] for name in keys), strict=True), strict=True):
        sums[key] = sums.get(key, 0) + weight
    assert len(sums) == 2 ** len(keys)
    assert list(sums.values()) == pytest.approx([40 / len(sums)] * len(sums))


def test_speakers_weigh_as_the_root_of_their_clips():
    rows = datasets.Dataset.from_dict({"speaker": ["a"] * 16 + ["b"] * 4 + ["c"]})
    given = clip_weights(rows, "speaker")
    sums = [given[:16].sum(), given[16:20].sum(), given[20]]
    np.testing.assert_allclose(np.array(sums) / sums[2], [4, 2, 1])
    assert given.mean() == pytest.approx(1)


def test_balance_by_label_on_an_example():
    # 22 of one label, 18 of the other
    np.testing.assert_allclose(np.unique(clip_weights(GROUPED, "label")), [20 / 22, 20 / 18])


@pytest.mark.parametrize(("balance", "alike"), [("corpus", range(30)), ("label", range(20)), ("both", range(20))])
def test_one_group_cannot_be_balanced(balance, alike):
    with pytest.raises(ObjectiveError, match=f"^balance '{balance}': all clips .*leave it out$"):
        clip_weights(GROUPED.select(alike), balance)


SOURCES = datasets.Dataset.from_dict(
    {
        "corpus": ["ravdess"] * 6 + ["tess"] * 4,
        "channel": ["speech"] * 4 + ["song"] * 2 + ["speech"] * 4,
        "label": [0, 1] * 5,
        "speaker": list("abcdefghij"),
    }
)


def test_groups_have_a_share_of_the_weight_of_all_others():
    weights = group_weights(SOURCES, "corpus=tess:0.5, channel=song:0.25,corpus=emodb:3")
    assert weights.mean() == pytest.approx(1)
    speech, song, tess = weights[:4].sum(), weights[4:6].sum(), weights[6:].sum()
    assert (tess / speech, song / speech) == (pytest.approx(0.5), pytest.approx(0.25))
    # the first group that fits, whatever follows
    both = group_weights(SOURCES, "corpus=tess:0.5,channel=speech:2")
    assert both[6:].sum() / both[4:6].sum() == pytest.approx(0.5)
    assert both[:4].sum() / both[4:6].sum() == pytest.approx(2)
    # where every clip is of a group, the shares are those of each other
    every = group_weights(SOURCES, "corpus=tess:1,corpus=ravdess:3")
    assert every[:6].sum() / every[6:].sum() == pytest.approx(3)


def test_groups_weigh_beside_a_balance():
    assert training_weights(SOURCES, "none") is None
    weights = training_weights(SOURCES, "label", "corpus=tess:0.5")
    assert weights[6:].sum() / weights[:6].sum() == pytest.approx(0.5)
    assert weights[0] / weights[1] == pytest.approx(1)


@pytest.mark.parametrize("text", ["tess:0.2", "corpus=tess", "corpus=tess:-1", "corpus=tess:0", "label=sad:2", ""])
def test_a_text_without_groups_is_refused(text):
    with pytest.raises(ObjectiveError, match=r"^--group_weights '.*' is no group: write .*corpus=tess:0.2$"):
        group_weights(SOURCES, text)
