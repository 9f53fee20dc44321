import pytest
import torch

from laparoflow.models import EncoderSettings, build_encoder
from laparoflow.models.pixel_head import PixelHead, UpsampleTwice

MINI = {"backbone": "laparoflow_convvit_mini", "image_size": 32, "dim": 8, "hidden": 16}


def test_shapes_and_strides():
    encoder = build_encoder(EncoderSettings(**MINI, embed_stride=2)).eval()
    images = torch.rand(2, 3, 16, 24)
    assert encoder.features(images).shape == (2, encoder.feature_dim, 4, 6)
    assert encoder(images).shape == (2, 8, 8, 12)
    assert (encoder.feature_stride, encoder.embed_stride, encoder.embed_dim) == (4, 2, 8)


def test_plain_vit_by_name_up_sampled():
    options = {"depth": 1, "embed_dim": 32, "num_heads": 2}
    settings = EncoderSettings("vit_tiny_patch16_224", 64, backbone_options=options, embed_stride=4, dim=8)
    encoder = build_encoder(settings).eval()
    assert encoder(torch.rand(1, 3, 48, 64)).shape == (1, 8, 12, 16)


def test_blocks_are_joined_and_end_with_the_last():
    encoder = build_encoder(EncoderSettings(**MINI, feature_blocks=2), seed=0).eval()
    images = torch.rand(1, 3, 16, 16)
    features = encoder.features(images)
    assert features.shape[1] == encoder.feature_dim == 192
    torch.testing.assert_close(features[:, 96:], encoder.tokens(images))


def test_normalisation_is_inside():
    settings = EncoderSettings(**MINI, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.2, 0.1])
    encoder = build_encoder(settings)
    image = torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    assert encoder.normalise(image).abs().max() < 1e-6
    assert torch.allclose(encoder.normalise(image + 0.1)[0, :, 0, 0], torch.tensor([0.5, 0.5, 1.0]), atol=1e-6)


def test_seed_gives_the_same_weights_and_leaves_the_callers_stream_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = build_encoder(EncoderSettings(**MINI), seed=1)
    assert torch.equal(torch.rand(3), expected)
    second = build_encoder(EncoderSettings(**MINI), seed=1)
    other = build_encoder(EncoderSettings(**MINI), seed=2)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("images", "text"),
    [
        (torch.rand(1, 3, 15, 16), "multiples of the backbone's stride 4"),
        (torch.rand(1, 1, 16, 16), "RGB"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "uint8"),
    ],
)
def test_wrong_pictures_are_named(images, text):
    with pytest.raises(ValueError, match=text):
        build_encoder(EncoderSettings(**MINI)).features(images)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"backbone": "no_such_model"}, "not a model of timm"),
        ({"backbone": "resnet18"}, "resnet18"),
        ({"embed_stride": 3}, "power of two"),
        ({"embed_stride": 8}, "power of two"),
        ({"feature_blocks": 3}, "1 to 2"),
        ({"image_std": [0.0, 1.0, 1.0]}, "image_std"),
        ({"projection_layers": 0}, "projection_layers"),
    ],
)
def test_wrong_settings_are_named(change, text):
    with pytest.raises(ValueError, match=text):
        build_encoder(EncoderSettings(**(MINI | change)))


def test_untrained_up_sampling_repeats():
    step = UpsampleTwice(6, 5)
    up = step(torch.randn(1, 6, 3, 4))
    assert up.shape == (1, 5, 6, 8)
    torch.testing.assert_close(up[..., ::2, ::2], up[..., 1::2, 1::2])


def test_every_weight_of_the_head_gets_a_gradient():
    head = PixelHead(12, 8, 2, dim=4, hidden=8, layers=2)
    head(torch.randn(2, 12, 3, 3)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


@pytest.mark.parametrize(("name", "stride"), [("vit_tiny_r_s16_p8_224", 32), ("vit_tiny_patch16_224", 16)])
def test_a_hybrid_s_stride_is_that_of_its_convolutions_too(name, stride):
    encoder = build_encoder(EncoderSettings(name, 64, embed_stride=4, dim=8, hidden=16)).eval()
    assert encoder.feature_stride == stride
    assert encoder(torch.rand(1, 3, 64, 96)).shape == (1, 8, 16, 24)


@pytest.mark.parametrize(("typed", "meant"), [("vit_smal_patch16_224", "vit_small_patch16_224"), ("vit-tiny", "vit_tiny")])
def test_a_misspelt_backbone_gets_near_names(typed, meant):
    with pytest.raises(ValueError, match=rf"near it: \[.*{meant}"):
        build_encoder(EncoderSettings(typed, 32))
