import pytest
import torch
from torch.nn import functional as F

from laparoflow.methods.build import build_method
from laparoflow.methods.densecl import DenseCLMethod, DenseCLSettings, match_pixels
from laparoflow.methods.image import ImageMethod, ImageSettings, KeyQueue, frame_contrast
from laparoflow.methods.pixpro import PixProMethod, PixProSettings
from laparoflow.methods.settings import MethodSettings


def test_pixpro_equals_the_dense_formula(encoder, make_view):
    method = PixProMethod(encoder, PixProSettings(bandwidth=0.8)).eval()
    first, second = make_view(0), make_view(1)
    first.inside[0, 0] = False
    found = method(first, second).loss
    unit = 4 * 2**0.5
    total = []
    for query, key in ((first, second), (second, first)):
        y = F.normalize(method.propagation(encoder(query.image)).flatten(2), dim=1).transpose(1, 2)
        k = F.normalize(method.teacher(key.image).flatten(2), dim=1).transpose(1, 2)
        near = torch.cdist(query.grid.flatten(1, 2), key.grid.flatten(1, 2)) / unit <= 0.8
        near = near & query.inside.flatten(1)[:, :, None] & key.inside.flatten(1)[:, None]
        cosine = y @ k.transpose(1, 2)
        total.append(torch.stack([-(c[n].mean()) for c, n in zip(cosine, near, strict=True)]).mean())
    torch.testing.assert_close(found, sum(total) / 2)


def test_pixpro_without_common_pixels_is_zero(encoder, make_view):
    method = PixProMethod(encoder, PixProSettings()).eval()
    first, second = make_view(0), make_view(0)
    second = second._replace(grid=second.grid + 1000)
    loss = method(first, second).loss
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or p.grad.abs().sum() == 0 for p in encoder.parameters())


def test_frame_contrast_is_cross_entropy_with_a_queue():
    torch.manual_seed(0)
    query, key = (F.normalize(torch.randn(3, 4), dim=1) for _ in range(2))
    queue = KeyQueue(2, 4)
    queue.push(F.normalize(torch.ones(1, 4), dim=1))
    found = frame_contrast(query, key, queue, 0.5).loss
    logits = query @ torch.cat([key, torch.full((1, 4), 0.5)]).T / 0.5
    torch.testing.assert_close(found, F.cross_entropy(logits, torch.arange(3)))


def test_queue_is_a_ring():
    queue = KeyQueue(3, 1)
    assert not queue.filled().any()
    for value in (1.0, 2.0, 3.0, 4.0):
        queue.push(torch.tensor([[value]]))
    assert queue.keys.flatten().tolist() == [4.0, 2.0, 3.0]
    queue.push(torch.arange(5.0, 10.0)[:, None])
    assert sorted(queue.keys.flatten().tolist()) == [7.0, 8.0, 9.0]


def test_densecl_finds_the_same_pixel():
    torch.manual_seed(0)
    maps = torch.randn(2, 16, 3, 3)
    inside = torch.ones(2, 3, 3, dtype=torch.bool)
    assert torch.equal(match_pixels(maps, maps, inside), torch.arange(9).expand(2, 9))
    inside[0, 0, 0] = False
    assert match_pixels(maps, maps, inside)[0, 0] != 0


def test_densecl_queue_fills_in_training_only(encoder, make_view):
    method = DenseCLMethod(encoder, DenseCLSettings(queue=8)).eval()
    method(make_view(0), make_view(1))
    assert not method.pixel_queue.filled().any()
    method.train()(make_view(0), make_view(1))
    assert method.pixel_queue.filled().sum() == method.image_queue.filled().sum() == 2


@pytest.mark.parametrize("name", ["flow", "coordinates", "pixpro", "densecl", "image"])
def test_every_method_trains_under_the_same_key(encoder, make_view, name):
    torch.manual_seed(0)
    settings = MethodSettings(name)
    settings.densecl.queue = 0  # each key in the queue is a negative more: the loss would rise while it fills
    method = build_method(encoder, settings)
    pair = make_view(0, batch=4), make_view(1, batch=4)
    optimiser = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=2e-3)
    losses = []
    for step in range(25):
        output = method(*pair)
        optimiser.zero_grad()
        output.loss.backward()
        unused = [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None]
        assert not unused
        optimiser.step()
        method.after_step(step, 1000)
        losses.append(output.loss.item())
        assert all(not value.requires_grad for value in output.logs.values())
    assert losses[-1] < losses[0] - 0.05


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda e: ImageMethod(e, ImageSettings(queue=8)), "queue"),
        (lambda e: ImageMethod(e, ImageSettings(temperature=0.0)), "temperature"),
        (lambda e: DenseCLMethod(e, DenseCLSettings(share=2.0)), "share"),
        (lambda e: PixProMethod(e, PixProSettings(bandwidth=0.0)), "bandwidth"),
    ],
)
def test_settings_out_of_range_are_named(encoder, build, text):
    with pytest.raises(ValueError, match=text):
        build(encoder)
