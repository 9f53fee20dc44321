import dataclasses

import pytest
import torch

from laparoflow.methods.contrast import ContrastSettings, PixelContrast, standardised
from laparoflow.methods.flow import FlowMethod, FlowSettings
from laparoflow_kernels import FlowInfoNCELoss


@pytest.mark.parametrize("positives", ["inside", "outside"])
def test_loss_is_the_kernels_loss(encoder, make_view, positives):
    contrast = ContrastSettings(0.2, positives=positives)
    settings = FlowSettings(bandwidth=0.9, flow_normalisation="none", flow_kernel="gaussian", contrast=contrast)
    method = FlowMethod(encoder, settings).eval()
    first, second = make_view(0), make_view(1)
    direct = FlowInfoNCELoss(0.2, 0.9, positives=positives, symmetric=True)
    expected = direct(encoder(first.image), encoder(second.image), first.flow, second.flow, first.valid, second.valid)
    torch.testing.assert_close(method(first, second).loss, expected)


def test_normalised_flow_does_not_change_with_the_frame_rate(encoder, make_view):
    method = FlowMethod(encoder, FlowSettings()).eval()
    first, second = make_view(0), make_view(1)
    faster = [v._replace(flow=v.flow * 3, spread=v.spread * 3) for v in (first, second)]
    torch.testing.assert_close(method(first, second).loss, method(*faster).loss)


def test_each_of_several_gaps_is_in_units_of_its_own_spread(encoder, make_view):
    """Twice the flow over a second gap says the same as the flow over the first alone."""
    method = FlowMethod(encoder, FlowSettings()).eval()
    first, second = make_view(0), make_view(1)
    stacked = [
        v._replace(flow=torch.cat([v.flow, 2 * v.flow], 1), spread=torch.cat([v.spread, 2 * v.spread], 1))
        for v in (first, second)
    ]
    torch.testing.assert_close(method(first, second).loss, method(*stacked).loss)


def test_noise_of_a_still_frame_is_not_blown_up(encoder, make_view):
    method = FlowMethod(encoder, FlowSettings(min_spread=0.5))
    view = make_view(0)
    still = view._replace(flow=view.flow / 100, spread=view.spread / 100)
    assert method.guide(still).abs().max().item() == pytest.approx(0.02 / 0.5)


def test_frames_without_motion_are_left_out(encoder, make_view):
    method = FlowMethod(encoder, FlowSettings(min_motion=1.0)).eval()
    first, second = make_view(0), make_view(1)
    still = torch.tensor([[2.0], [0.1]])
    both = method(first._replace(spread=still), second._replace(spread=still))
    only = method(*(type(v)(*(x[:1] if isinstance(x, torch.Tensor) else x for x in v)) for v in (first, second)))
    torch.testing.assert_close(both.loss, only.loss)
    assert both.logs["valid"].item() == pytest.approx(0.5)


def test_training_separates_what_moves_apart(encoder, make_view):
    torch.manual_seed(0)
    method = FlowMethod(encoder, FlowSettings())
    optimiser = torch.optim.AdamW(method.parameters(), lr=3e-3)
    first = make_view(0)
    image = first.image.clone()
    image[..., 8:] = image[..., 8:] * 0.5  # what moves to the left is darker
    pair = first._replace(image=image), first._replace(image=image.flip(-2))
    start = method(*pair).loss.item()
    for _ in range(40):
        optimiser.zero_grad()
        loss = method(*pair).loss
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.5 * start
    with torch.no_grad():
        maps, _ = standardised(*[encoder.eval()(image)] * 2, *[first.valid] * 2)  # what the loss compares
        e = torch.nn.functional.normalize(maps, dim=1).mean((0, 2))
    assert (e[:, 0] @ e[:, 1]) > (e[:, 1] @ e[:, 2]) + 0.2


@pytest.mark.parametrize("guide", ["flow", "flow_and_place", "shuffled", "uniform"])
def test_guides(encoder, make_view, guide):
    method = FlowMethod(encoder, FlowSettings(guide=guide, contrast=ContrastSettings(positives="outside"))).eval()
    view = make_view(0)
    values = method.guide(view)
    assert values.shape[1] == (4 if guide == "flow_and_place" else 2)
    assert method.shuffle_flow == (guide == "shuffled")
    if guide == "uniform":
        output = method(view, make_view(1))
        assert output.logs["weight_entropy"].item() == pytest.approx(torch.tensor(16.0).log().item(), abs=1e-5)
    if guide == "flow_and_place":
        width = 0.3 * 16  # one bandwidth of place
        torch.testing.assert_close(values[:, 2, 0, 1] - values[:, 2, 0, 0], torch.full((2,), 4 / width * 0.7))


def test_teacher_encodes_keys_and_follows_slowly(encoder, make_view):
    method = FlowMethod(encoder, FlowSettings(momentum=0.9))
    method(make_view(0), make_view(1)).loss.backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    assert all(p.grad is not None for p in method.encoder.parameters())
    name = "head.projection.0.weight"
    before = method.teacher.get_parameter(name).clone()
    with torch.no_grad():
        method.encoder.get_parameter(name).add_(1.0)
    method.after_step(0, 100)
    torch.testing.assert_close(method.teacher.get_parameter(name), before + 0.1)
    method.after_step(100, 100)  # at the end it stands still
    torch.testing.assert_close(method.teacher.get_parameter(name), before + 0.1)


def test_learned_temperature_gets_a_gradient(encoder, make_view):
    method = FlowMethod(encoder, FlowSettings(contrast=ContrastSettings(0.3, learn_temperature=True)))
    output = method(make_view(0), make_view(1))
    output.loss.backward()
    assert output.logs["temperature"].item() == pytest.approx(0.3)
    assert method.contrast.log_temperature.grad.abs() > 0


@pytest.mark.parametrize("change", [{"bandwidth": 0.0}, {"min_spread": 0.0}, {"momentum": 1.0}, {"place_width": -1.0}])
def test_settings_out_of_range_are_named(encoder, change):
    with pytest.raises(ValueError, match=next(iter(change))):
        FlowMethod(encoder, FlowSettings(**change))


def test_equal_weights_inside_are_refused(encoder):
    with pytest.raises(ValueError, match="constant"):
        FlowMethod(encoder, FlowSettings(guide="uniform"))


def test_excess_has_a_floor_of_zero(encoder, make_view):
    for positives in ("inside", "outside"):
        contrast = dataclasses.replace(ContrastSettings(), positives=positives)
        output = FlowMethod(encoder, FlowSettings(contrast=contrast)).eval()(make_view(0), make_view(1))
        assert output.logs["excess"] >= 0


def test_excess_is_of_the_same_directions_as_the_loss(encoder, make_view):
    """With positives inside the floor is 0, so both are one number; of one direction alone it was another."""
    for symmetric in (False, True):
        settings = FlowSettings(contrast=ContrastSettings(positives="inside", symmetric=symmetric))
        output = FlowMethod(encoder, settings).eval()(make_view(0), make_view(1))
        torch.testing.assert_close(output.logs["excess"], output.loss.detach())


def test_standardised_maps_have_unit_moments_over_the_kept_pixels_of_both_views():
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 3, 4, 4, generator=generator) * 5 + 7, torch.randn(2, 3, 2, 4, generator=generator)
    kept, known = torch.rand(2, 4, 4, generator=generator) > 0.3, torch.rand(2, 2, 4, generator=generator) > 0.3
    query, key = query.masked_fill(~kept[:, None], 1e3), key.masked_fill(~known[:, None], -1e3)
    first, second = standardised(query, key, kept, known)
    assert first.shape == query.shape
    assert second.shape == key.shape
    for b in range(2):
        pixels = torch.cat([first[b][:, kept[b]], second[b][:, known[b]]], dim=1)
        torch.testing.assert_close(pixels.mean(1), torch.zeros(3), atol=1e-5, rtol=0)
        torch.testing.assert_close(pixels.var(1, unbiased=False), torch.ones(3))
    nothing = standardised(query, key, kept & False, known & False)
    assert all(part.isfinite().all() for part in nothing)


def test_standardised_loss_does_not_see_what_all_pixels_of_a_frame_share(encoder, make_view):
    contrast = PixelContrast(ContrastSettings(standardise=True), "gaussian", 0.7, symmetric=True)
    view = make_view(0)
    query, key = encoder(view.image), encoder(make_view(1).image)
    shared = torch.tensor([3.0, -2.0]).view(2, 1, 1, 1)
    sizes = torch.linspace(1.0, 4.0, query.shape[1]).view(1, -1, 1, 1)
    rest = (view.flow, view.flow, view.valid, view.valid)
    plain = PixelContrast(ContrastSettings(), "gaussian", 0.7, symmetric=True)
    changed = query * sizes + shared, key * sizes + shared
    one, two = contrast(query, key, *rest).loss, contrast(*changed, *rest).loss
    torch.testing.assert_close(one, two, rtol=1e-4, atol=0)
    assert not torch.isclose(plain(query, key, *rest).loss, plain(*changed, *rest).loss, rtol=1e-2)
