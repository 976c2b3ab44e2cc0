import pytest
import torch
from torch import nn
from transformers import AutoModelForAudioClassification

from ser_hf.training.cpu_kernels import ByteDropout, attention, use_byte_dropout


def dropped(layer, shape=(301, 1_003), seed=0):
    torch.manual_seed(seed)
    hidden = torch.full(shape, 3.0, requires_grad=True)
    return hidden, layer(hidden)


@pytest.mark.parametrize(("chance", "bytes_of_256"), [(0.1, 26), (0.5, 128), (0.25, 64)])
def test_the_chance_is_rounded_to_a_256th_and_the_expectation_kept(chance, bytes_of_256):
    _, out = dropped(ByteDropout(chance))
    share = bytes_of_256 / 256
    assert (out == 0).float().mean().item() == pytest.approx(share, abs=0.003)
    assert out[out != 0].unique().tolist() == pytest.approx([3 / (1 - share)])
    assert out.mean().item() == pytest.approx(3, rel=0.005)


def test_values_are_dropped_apart_from_one_another():
    _, out = dropped(ByteDropout(0.5), (4_000, 64))
    kept = (out != 0).float()
    assert kept.mean(0).sub(0.5).abs().max() < 0.05  # each of the bytes of a word
    assert torch.corrcoef(kept.T).fill_diagonal_(0).abs().max() < 0.1


def test_the_gradient_goes_where_the_value_went():
    hidden, out = dropped(ByteDropout(0.1))
    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    torch.testing.assert_close(hidden.grad, weight * (out != 0) * (256 / 230))


def test_evaluation_and_no_chance_change_nothing():
    hidden, out = dropped(ByteDropout(0.5).eval())
    assert out is hidden
    hidden, out = dropped(ByteDropout(0.0))
    assert out is hidden


def test_masks_come_from_the_seed():
    _, one = dropped(ByteDropout(0.1), (7, 11, 3))
    _, same = dropped(ByteDropout(0.1), (7, 11, 3))
    _, other = dropped(ByteDropout(0.1), (7, 11, 3), seed=1)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.shape == (7, 11, 3)


def test_half_precision_stays_half():
    layer = ByteDropout(0.1)
    out = layer(torch.ones(64, 64, dtype=torch.bfloat16))
    assert out.dtype == torch.bfloat16
    assert set(out.unique().tolist()) == {0.0, torch.tensor(256 / 230, dtype=torch.bfloat16).item()}


def test_a_model_is_quickened_whole(models):
    model = AutoModelForAudioClassification.from_pretrained(models["group"])
    stock = [name for name, module in model.named_modules() if type(module) is nn.Dropout]
    for name in stock:
        model.get_submodule(name).p = 0.25
    keys = list(model.state_dict())
    use_byte_dropout(model)
    assert len(stock) > 3
    assert not any(type(module) is nn.Dropout for module in model.modules())
    assert all(type(model.get_submodule(name)) is ByteDropout and model.get_submodule(name).p == 0.25 for name in stock)
    assert list(model.state_dict()) == keys
    values = torch.randn(2, 8_000)
    model.train()
    torch.manual_seed(0)
    one = model(values).logits
    assert not torch.equal(one, model(values).logits)
    torch.manual_seed(0)
    assert torch.equal(one, model(values).logits)
    one.sum().backward()
    assert model.classifier.weight.grad.abs().sum() > 0


def attended(dropout, mask, seed=0):
    torch.manual_seed(7)
    query, key, value = (torch.randn(2, 3, 5, 4, requires_grad=True) for _ in range(3))
    torch.manual_seed(seed)
    return (query, key, value), attention(nn.Module(), query, key, value, mask, dropout, 0.5)[0]


def test_attention_with_dropout_is_attention_on_average():
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    mask[1, ..., 3:] = False
    (query, key, value), whole = attended(0.0, mask)
    scores = torch.where(mask, query @ key.transpose(2, 3) * 0.5, torch.tensor(-torch.inf))
    torch.testing.assert_close(whole, (scores.softmax(-1) @ value).transpose(1, 2))
    often = [one.detach().repeat(4_000, 1, 1, 1) for one in (query, key, value, mask)]
    torch.manual_seed(0)
    mean = attention(nn.Module(), *often, 0.25, 0.5)[0].unflatten(0, (4_000, 2)).mean(0)
    torch.testing.assert_close(mean, whole, atol=0.08, rtol=0)
    assert not torch.allclose(attended(0.25, mask, 1)[1], whole, atol=0.08)
    (query, key, value), out = attended(0.25, mask)
    out.sum().backward()
    assert not key.grad[1, :, 3:].any()  # what is masked is not heard, and learns nothing
    assert not value.grad[1, :, 3:].any()
    assert key.grad[1, :, :3].any()


def test_a_quickened_model_answers_and_is_saved_as_before(models, tmp_path):
    stock = AutoModelForAudioClassification.from_pretrained(models["layer"]).eval()
    model = AutoModelForAudioClassification.from_pretrained(models["layer"])
    assert model.config._attn_implementation == "sdpa"
    use_byte_dropout(model)
    values, mask = torch.randn(2, 8_000), torch.ones(2, 8_000, dtype=torch.long)
    mask[1, 5_000:] = 0
    torch.testing.assert_close(model.eval()(values, mask).logits, stock(values, mask).logits)
    for module in model.modules():
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.5  # of attention
    model.train()
    assert not torch.equal(model(values, mask).logits, model(values, mask).logits)
    model.save_pretrained(tmp_path / "m")
    assert "byte_dropout" not in (tmp_path / "m" / "config.json").read_text()
    assert AutoModelForAudioClassification.from_pretrained(tmp_path / "m").config._attn_implementation == "sdpa"
