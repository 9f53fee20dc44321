import builtins
import errno
import io
import json
import shutil
import subprocess
from dataclasses import replace

import pytest
import torch
import yaml
from lightning.pytorch.loggers import Logger
from run_logs import logged

import laparoflow
from laparoflow.files import DiskFullError
from laparoflow.methods.densecl import DenseCLSettings
from laparoflow.methods.pixpro import PixProSettings
from laparoflow.methods.settings import CoordinateSettings, FlowSettings, ImageSettings, MethodSettings
from laparoflow.models import load_encoder
from laparoflow.training import module as module_file
from laparoflow.training.module import NonFiniteLossError
from laparoflow.training.run import pretrain, source_commit
from laparoflow.training.settings import OptimiserSettings
from laparoflow.video.cache import CacheError


def test_a_run_leaves_what_it_promises(make_settings):
    settings = make_settings(trainer={"checkpoint_every": 1, "keep": 2, "tensorboard": True})
    summary = pretrain(settings)
    out = settings.out
    assert summary["steps"] == 4
    assert json.loads((out / "run.json").read_text()) == summary
    assert summary["data_hash"]
    assert yaml.safe_load((out / "config.yaml").read_text())["views"]["size"] == [16, 16]
    kept = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert kept == ["last.ckpt", "step_0000003.ckpt", "step_0000004.ckpt"]
    assert list((out / "logs" / "tensorboard").glob("events*"))
    for name in ("loss", "excess", "weight_entropy", "valid", "motion", "frames_per_second", "data_wait_share"):
        assert logged(out, name), name
    assert all(float(rate) > 0 for rate in logged(out, "views_per_second").values())
    assert all(0 <= float(share) < 1 for share in logged(out, "data_wait_share").values())
    assert all(50 < float(size) < 100_000 for size in logged(out, "process_memory_mb").values())
    assert load_encoder(out).features(torch.rand(1, 3, 32, 32)).shape == (1, 96, 8, 8)


@pytest.mark.parametrize(("profiler", "shown"), [("simple", "Mean duration (s)"), ("advanced", "two_views.py")])
def test_a_profile_tells_waiting_and_steps_apart(make_settings, profiler, shown):
    settings = make_settings(trainer={"profiler": profiler})
    pretrain(settings)
    table = (settings.out / "fit-profile.txt").read_text()
    for name in ("train_dataloader_next", "run_training_batch", shown):
        assert name in table


def test_weights_move_and_the_run_repeats(make_settings):
    first, second = (make_settings(out) for out in ("a", "b"))
    pretrain(first)
    pretrain(second)
    assert logged(first.out) == logged(second.out)
    assert len(set(logged(first.out).values())) == 4


def test_an_existing_folder_is_kept(make_settings):
    settings = make_settings()
    settings.out.mkdir()
    (settings.out / "precious.txt").write_text("x")
    with pytest.raises(FileExistsError, match="resume"):
        pretrain(settings)
    assert [path.name for path in settings.out.iterdir()] == ["precious.txt"]


def test_nothing_to_resume_and_no_cache_are_named(make_settings, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"last\.ckpt"):
        pretrain(make_settings(resume=True))
    settings = make_settings()
    settings.data = tmp_path / "nowhere"
    with pytest.raises(FileNotFoundError, match="nowhere"):
        pretrain(settings)
    assert not settings.out.exists()


@pytest.mark.parametrize("writes", [3, 6])
def test_a_disk_that_fills_up_costs_nothing_that_was_saved(make_settings, monkeypatch, writes):
    trainer = {"checkpoint_every": 1, "keep": 2}
    whole = make_settings("whole", trainer, max_steps=5)
    pretrain(whole)
    settings = make_settings(trainer=trainer, max_steps=5)
    written = []

    class Full(io.FileIO):
        def write(self, data):
            written.append(len(data))
            if len(written) > writes:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    def counting(path, mode):
        return Full(path, mode) if "ckpt" in path.name else builtins.open(path, mode)

    monkeypatch.setattr("laparoflow.files.open", counting, raising=False)
    with pytest.raises(DiskFullError, match="finished work is kept"):
        pretrain(settings)
    monkeypatch.undo()
    kept = sorted(path.name for path in (settings.out / "checkpoints").iterdir())
    assert len(kept) >= 1
    assert all(name.endswith(".ckpt") for name in kept)
    for name in kept:
        load_encoder(settings.out / "checkpoints" / name)
    pretrain(make_settings(trainer=trainer, max_steps=5, resume=True))
    one, two = (load_encoder(s.out).state_dict() for s in (whole, settings))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_wandb_is_off_unless_asked_for(make_settings, monkeypatch):
    made = []

    class Recorder(Logger):
        def __init__(self, **options):
            super().__init__()
            made.append(self)
            self.options, self.values, self.name, self.version = options, {}, "recorder", 0

        name = version = None

        def log_metrics(self, metrics, step=None):
            self.values.setdefault(step, {}).update(metrics)

        def log_hyperparams(self, *arguments, **options):
            pass

    monkeypatch.setattr("lightning.pytorch.loggers.WandbLogger", Recorder)
    pretrain(make_settings("off", max_steps=1))
    assert made == []
    monkeypatch.setattr("laparoflow.training.run.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install wandb"):
        pretrain(make_settings("missing", {"wandb": "project"}))
    monkeypatch.setattr("laparoflow.training.run.find_spec", lambda name: name)
    settings = make_settings("on", {"wandb": "project"}, max_steps=2)
    pretrain(settings)
    assert made[0].options == {"project": "project", "save_dir": settings.out}
    assert float(logged(settings.out)[1]) == pytest.approx(made[0].values[1]["loss"])


def test_a_finished_run_resumes_to_nothing_and_goes_further_when_asked(make_settings):
    pretrain(make_settings(max_steps=2))
    assert pretrain(make_settings(max_steps=2, resume=True))["loss"] is None
    further = make_settings(max_steps=4, resume=True)
    assert pretrain(further)["steps"] == 4
    assert sorted(logged(further.out)) == [0, 1, 2, 3]


def test_a_corrupted_shard_is_named_and_not_trained_on(make_settings, tmp_path):
    settings = make_settings(max_steps=1)
    settings.data = shutil.copytree(settings.data, tmp_path / "copy")
    settings.trainer.verify = "hashes"
    shard = next(settings.data.rglob("*.bin"))
    data = bytearray(shard.read_bytes())
    data[data.index(b"\xff\xd9") - 20] ^= 1  # near the end of the first frame's picture
    shard.write_bytes(data)
    with pytest.raises(CacheError, match=rf"{shard.name} is corrupted"):
        pretrain(settings)
    assert not settings.out.exists()
    settings.trainer.verify = "sizes"
    assert pretrain(settings)["steps"] == 1


METHODS = {
    "flow": MethodSettings(),
    "flow, teacher": MethodSettings(flow=FlowSettings(momentum=0.9)),
    "coordinates, teacher": MethodSettings("coordinates", coordinates=CoordinateSettings(momentum=0.9)),
    "pixpro": MethodSettings("pixpro", pixpro=PixProSettings(momentum=0.9)),
    "densecl": MethodSettings("densecl", densecl=DenseCLSettings(queue=6, dim=8, hidden=16, momentum=0.9)),
    "image, teacher": MethodSettings("image", image=ImageSettings(queue=6, dim=8, hidden=16, momentum=0.9)),
}


@pytest.mark.parametrize(
    ("method", "accumulate"), [*((name, 1) for name in METHODS), ("flow", 2), ("flow, teacher", 2)]
)
def test_resumed_run_equals_the_uninterrupted_one(make_settings, method, accumulate):
    trainer = {"checkpoint_every": 3, "keep": 9, "accumulate": accumulate}
    whole = make_settings("whole", trainer, max_steps=8, method=METHODS[method])
    pretrain(whole)
    cut = make_settings("cut", trainer, max_steps=8, method=METHODS[method], resume=True)
    (cut.out / "checkpoints").mkdir(parents=True)
    shutil.copy(whole.out / "checkpoints" / "step_0000003.ckpt", cut.out / "checkpoints")
    pretrain(cut)
    after, expected = logged(cut.out), logged(whole.out)
    assert after == {step: expected[step] for step in range(3, 8)}
    one, two = (torch.load(s.out / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for s in (whole, cut))
    assert any("teacher" in name for name in one) == (method != "flow")
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


def test_a_step_that_the_loss_scaler_skips_leaves_the_teacher(make_settings):
    module = module_file.PretrainModule(make_settings(method=MethodSettings(flow=FlowSettings(momentum=0.9))))
    optimiser, scaler = module.configure_optimizers()["optimizer"], torch.amp.GradScaler("cpu", init_scale=4.0)
    student, teacher = (part.backbone.model.patch_embed for part in (module.method.encoder, module.method.teacher))
    student, teacher = next(student.parameters()), next(teacher.parameters())
    moved = []
    for value in (torch.inf, 1.0):
        student.data.zero_()
        before = teacher.clone()
        scaler.scale(student.flatten()[0] * value).backward()
        scaler.step(optimiser)
        scaler.update()
        optimiser.zero_grad()
        moved.append(not torch.equal(before, teacher))
    assert moved == [False, True]


def test_a_loss_that_is_not_finite_stops_and_saves_the_batch(make_settings, monkeypatch):
    plain = module_file.two_views

    def poisoned(batch, *rest):
        first, second = plain(batch, *rest)
        if int(batch.number[0]) == 2:
            first = first._replace(image=first.image * torch.nan)
        return first, second

    monkeypatch.setattr(module_file, "two_views", poisoned)
    settings = make_settings(trainer={"checkpoint_every": 1})
    with pytest.raises(NonFiniteLossError, match="bad_batch_0000002"):
        pretrain(settings)
    saved = torch.load(next(settings.out.glob("bad_batch_*.pt")), weights_only=True)
    assert saved["image"].shape == (2, 3, 64, 64)
    assert saved["seed"][:3] == [0, 1, 2]
    assert (settings.out / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.parametrize("change", [{"max_steps": 0}, {"batch_size": 0}, {"trainer": {"average": 1.0}}])
def test_settings_out_of_range_are_named(make_settings, change):
    with pytest.raises(ValueError, match=r"max_steps|batch_size|average"):
        make_settings(**change)


def test_a_changed_checkout_is_told_from_its_commit(tmp_path, monkeypatch):
    package = tmp_path / "laparoflow"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(laparoflow, "__file__", str(package / "__init__.py"))
    assert source_commit() is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"], ["tag", "-a", "v1", "-m", "v1"]):
        subprocess.run([*git, *words], check=True)
    clean = source_commit()
    assert clean is not None and len(clean) == 40
    (package / "__init__.py").write_text("changed = True")
    assert source_commit() == f"{clean}-dirty"


@pytest.mark.parametrize(("method", "reason"), [
    (MethodSettings("flow", flow=FlowSettings(guide="shuffled")), "takes another frame's flow"),
    (MethodSettings("image"), "negatives are other frames"),
], ids=["shuffled", "image"])  # fmt: skip
def test_a_batch_of_one_that_teaches_nothing_is_refused(make_settings, method, reason):
    with pytest.raises(ValueError, match=f"batch_size: expected at least 2 .*{reason}"):
        pretrain(make_settings(batch_size=1, method=method))


def test_a_run_goes_on_from_the_weights_of_another_with_its_stem_frozen(make_settings, tmp_path):
    first = make_settings(max_steps=2)
    pretrain(first)
    weights = tmp_path / "run" / "checkpoints" / "last.ckpt"
    second = make_settings("continued", max_steps=2, optimiser=OptimiserSettings(freeze="stem"))
    second.encoder = replace(first.encoder, weights=weights)
    pretrain(second)
    before, after = (load_encoder(tmp_path / name).backbone.state_dict() for name in ("run", "continued"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "model.blocks.0.attn.qkv.weight" in changed
    assert not [name for name in changed if "patch_embed" in name or "pos_embed" in name]
