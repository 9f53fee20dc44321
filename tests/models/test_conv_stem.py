import pytest
import timm
import torch
from torch import nn

import laparoflow.models  # noqa: F401
from laparoflow.models.conv_stem import ConvStem, WindowStem, stem_strides, window_means

WINDOW_PAIR = ("laparoflow_convvit_mini", "laparoflow_convvit_mini_window")


@pytest.mark.parametrize("stride", [1, 2, 4, 8, 16, 32])
def test_strides_multiply_to_the_stride(stride):
    strides = stem_strides(stride)
    assert len(strides) >= 3
    assert torch.tensor(strides).prod().item() == stride


@pytest.mark.parametrize("stride", [0, 3, 12, -4])
def test_strides_refuse_what_is_not_a_power_of_two(stride):
    with pytest.raises(ValueError, match="power of two"):
        stem_strides(stride)


def test_timm_builds_the_model_and_tokens_follow_the_picture():
    model = timm.create_model("laparoflow_convvit_mini", img_size=32, dynamic_img_size=True).eval()
    assert model.forward_features(torch.rand(2, 3, 24, 40)).shape == (2, 6 * 10, 96)
    assert isinstance(model.patch_embed, ConvStem)


def test_stem_sees_beyond_its_cell():
    stem = ConvStem(32, 4, embed_dim=16).eval()
    image = torch.zeros(1, 3, 32, 32)
    other = image.clone()
    other[0, :, 15, 15] = 1.0  # just outside the cell of token (4, 4), which starts at 16
    changed = (stem(image) - stem(other)).abs().sum(-1).reshape(8, 8)
    assert changed[4, 4] > 0


def test_tokens_do_not_depend_on_the_rest_of_the_batch():
    stem = ConvStem(16, 4, embed_dim=32).train()
    images = torch.rand(3, 3, 16, 16)
    torch.testing.assert_close(stem(images)[:1], stem(images[:1]))
    assert not [name for name, _ in stem.named_buffers()]


def test_stride_is_fixed():
    stem = ConvStem(32, 4, embed_dim=16)
    stem.set_input_size(img_size=(64, 64))
    assert stem.grid_size == (16, 16)
    with pytest.raises(ValueError, match="stride"):
        stem.set_input_size(patch_size=8)


def test_a_cell_starts_with_itself_and_the_mean_of_its_window():
    maps = torch.rand(1, 4, 9, 11)
    out = window_means(4)(maps)
    torch.testing.assert_close(out[:, ::2], maps[:, ::2])
    torch.testing.assert_close(out[0, 1::2, 4, 5], maps[0, 1::2, 1:8, 2:9].mean((1, 2)))
    constant = torch.full((1, 4, 9, 11), 0.5)
    torch.testing.assert_close(window_means(4)(constant), constant)  # also at the edge


def test_the_window_is_a_backbone_of_its_own():
    plain, window = (timm.create_model(name, img_size=32) for name in WINDOW_PAIR)
    added = set(window.state_dict()) - set(plain.state_dict())
    assert len(window.patch_embed.proj) == len(plain.patch_embed.proj) + 1
    assert added == {"patch_embed.proj.10.weight", "patch_embed.proj.10.bias"}
    assert window(torch.rand(1, 3, 32, 32)).shape == plain(torch.rand(1, 3, 32, 32)).shape


@pytest.mark.parametrize("stride", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("kind", [ConvStem, WindowStem])
def test_a_token_sees_the_middle_of_its_cell(kind: type[ConvStem], stride: int) -> None:
    """Centre of the receptive field (c + 1/2) s - 1/2, which is what views, probes and heat maps take it for."""
    size, cell = 16 * stride, 8
    stem = kind(size, stride, in_chans=1, embed_dim=16)
    picture = torch.zeros(1, 1, size, size, dtype=torch.float64, requires_grad=True)
    x = picture
    for layer in stem.proj.double():
        if isinstance(layer, nn.Conv2d):  # the others act on one place at a time
            nn.init.ones_(layer.weight)
            x = layer(x)
    assert x.shape[-2:] == (16, 16)
    (seen,) = torch.autograd.grad(x[0, :, cell, cell].sum(), picture)
    places = torch.arange(size, dtype=torch.float64)
    for side in (seen[0, 0].sum(0), seen[0, 0].sum(1)):
        middle = (side * places).sum() / side.sum()
        torch.testing.assert_close(middle.item(), (cell + 0.5) * stride - 0.5)
