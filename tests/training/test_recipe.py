"""What the optimiser really sees: accumulation, clipping, layer decay, the moving average, half precision."""

import pytest
import torch
from run_logs import logged
from torch.optim.optimizer import register_optimizer_step_post_hook

from laparoflow.methods.settings import ContrastSettings, FlowSettings, MethodSettings
from laparoflow.models.loading import AVERAGED_KEY
from laparoflow.training.frames import CachedFrames, StepSampler, collate, groups_of
from laparoflow.training.module import PretrainModule
from laparoflow.training.optim import depth_of, rate_at
from laparoflow.training.pairs import near_view, two_views
from laparoflow.training.run import pretrain
from laparoflow.training.settings import OptimiserSettings
from laparoflow.video.cache import FrameCache

PLAIN = {"clip": 0.0, "weight_decay": 0.0, "warmup": 0.0}


@pytest.fixture
def steps():
    """Gradients used in and weights after each optimiser step of any run, two lists of one list of tensors a step."""
    gradients, weights = [], []

    def note(optimiser, *_):
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        gradients.append([p.grad.clone() for p in parameters])
        weights.append([p.detach().clone() for p in parameters])

    handle = register_optimizer_step_post_hook(note)
    yield gradients, weights
    handle.remove()


def flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors])


def own_gradient(settings, numbers):
    """Mean gradient of the batches with these numbers, without a trainer, in the optimiser's order."""
    module = PretrainModule(settings)
    cache = FrameCache.open(settings.data)
    frames, groups = CachedFrames(cache, module.method.neighbours), groups_of(cache, settings.balance)
    batches = list(StepSampler(len(frames), settings.batch_size, 0, max(numbers) + 1, settings.seed, groups=groups))
    for number in numbers:
        batch = collate(frames.__getitems__(batches[number]))
        stride, seed = module.method.encoder.embed_stride, (settings.seed, 1, number, 0)
        first, second = two_views(batch, module.views, stride, seed)
        near = near_view(batch, first, module.views, stride, seed)
        (module.method(first, second, near).loss / len(numbers)).backward()
    groups = module.configure_optimizers()["optimizer"].param_groups
    return flat([p.grad for group in groups for p in group["params"]])


def test_accumulated_gradient_is_the_mean_of_its_batches(make_settings, steps):
    settings = make_settings(trainer={"accumulate": 3}, max_steps=2, optimiser=OptimiserSettings(**PLAIN))
    pretrain(settings)
    assert len(steps[0]) == 2
    expected = own_gradient(settings, [0, 1, 2])
    assert expected.norm() > 1e-3
    assert (flat(steps[0][0]) - expected).norm() < 1e-5 * expected.norm()
    assert (expected - own_gradient(settings, [0])).norm() > 0.1 * expected.norm()


def test_the_gradient_is_clipped_to_the_norm_and_keeps_its_direction(make_settings, steps):
    settings = make_settings(max_steps=1, optimiser=OptimiserSettings(**(PLAIN | {"clip": 1e-3})))
    expected = own_gradient(settings, [0])
    pretrain(settings)
    clipped = flat(steps[0][0])
    assert clipped.norm().item() == pytest.approx(1e-3, rel=1e-3)
    assert torch.cosine_similarity(clipped, expected, dim=0) > 0.9999


def test_layer_decay_scales_the_steps_that_are_taken(make_settings, steps):
    """The first step of AdamW has the size of the learning rate wherever the gradient is not tiny."""
    optimiser = OptimiserSettings(rate=1e-3, layer_decay=0.5, **PLAIN)
    plain = MethodSettings(flow=FlowSettings(contrast=ContrastSettings()))  # standardised, the last bias has no gradient
    settings = make_settings(max_steps=1, optimiser=optimiser, method=plain)
    module = PretrainModule(settings)
    names = {id(p): name for name, p in module.method.named_parameters()}
    groups = module.configure_optimizers()["optimizer"].param_groups
    before = [(names[id(p)], p.detach().clone()) for group in groups for p in group["params"]]
    pretrain(settings)
    seen = set()
    for (name, old), new in zip(before, steps[1][0], strict=True):
        depth = depth_of(name, 2)
        rate = 1e-3 * 0.5 ** (3 - depth) * rate_at(0, 1, optimiser)
        assert (new - old).abs().max().item() == pytest.approx(rate, rel=2e-2), name
        seen.add(depth)
    assert seen == {0, 1, 2, 3}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_moving_average_follows_its_rule(make_settings, steps, accumulate):
    settings = make_settings(trainer={"average": 0.3, "accumulate": accumulate}, max_steps=5)
    module = PretrainModule(settings)
    names = {id(p): name for name, p in module.method.named_parameters()}
    groups = module.configure_optimizers()["optimizer"].param_groups
    order = [(names[id(p)], p.detach().clone()) for group in groups for p in group["params"]]
    pretrain(settings)
    assert len(steps[1]) == 5
    saved = torch.load(settings.out / "checkpoints" / "last.ckpt", weights_only=True)[AVERAGED_KEY]
    for place, (name, mean) in enumerate(order):
        for step, weights in enumerate(steps[1], 1):
            decay = min(0.3, step / (step + 10))
            mean = decay * mean + (1 - decay) * weights[place]
        torch.testing.assert_close(saved[name.removeprefix("encoder.")], mean, rtol=1e-5, atol=1e-7)


def test_bfloat16_runs_the_network_in_half_and_keeps_the_weights_whole(make_settings, monkeypatch):
    seen = set()
    forward = PretrainModule.training_step

    def watched(self, batch, index):
        hook = self.method.encoder.backbone.model.blocks[0].attn.qkv.register_forward_hook(
            lambda module, inputs, output: seen.add(output.dtype)
        )
        loss = forward(self, batch, index)
        hook.remove()
        seen.add(("loss", loss.dtype))
        return loss

    monkeypatch.setattr(PretrainModule, "training_step", watched)
    whole, half = make_settings("whole"), make_settings("half", {"precision": "bf16-mixed"})
    pretrain(whole)
    assert seen == {torch.float32, ("loss", torch.float32)}
    seen.clear()
    pretrain(half)
    assert seen == {torch.bfloat16, ("loss", torch.float32)}
    saved = torch.load(half.out / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(value.dtype == torch.float32 for value in saved.values())
    first, second = logged(whole.out), logged(half.out)
    assert first != second
    assert all(abs(float(first[step]) - float(second[step])) < 0.1 for step in first)


def test_what_the_machine_cannot_do_is_said_before_anything_is_written(make_settings):
    with pytest.raises(ValueError, match="bf16-mixed"):
        pretrain(make_settings(trainer={"precision": "16-mixed"}))
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="CUDA"):
            pretrain(make_settings(trainer={"accelerator": "gpu"}))
    assert not make_settings().out.exists()
