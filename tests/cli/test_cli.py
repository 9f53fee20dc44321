import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from laparoflow import cli
from laparoflow.cli import COMMANDS, build_parser, find_config, main, parse_settings
from laparoflow.training.settings import plain


def parse(command, *words):
    parser, settings_class = build_parser(command)
    return parse_settings(parser, settings_class, list(words))


def test_overview_loads_nothing_heavy():
    code = (
        "import sys; from laparoflow.cli import main; status = main(['--help']); "
        "print(status, any(name in sys.modules for name in ('torch', 'timm', 'lightning', 'jsonargparse')))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip().endswith("0 False")
    for name in COMMANDS:
        assert f"  {name}" in answer.stdout


@pytest.mark.parametrize("words", [[], ["nothing"]])
def test_no_or_unknown_command(words, capsys):
    assert main(words) == 2
    out = capsys.readouterr()
    assert "pretrain" in out.out + out.err


def test_pretrain_short_form():
    settings = parse("pretrain", "--data", "c", "--out", "r", "--max-steps", "30")
    assert (settings.data, settings.out, settings.max_steps) == (Path("c"), Path("r"), 30)
    assert settings.method.name == "flow"


@pytest.mark.parametrize("words", ["--resume", "--resume --seed 1", "--seed 1 --trainer.progress --resume"])
def test_a_bare_switch_is_true(words):
    settings = parse("pretrain", "--data", "c", "--out", "r", "--resume=false", "--trainer.progress=false", *words.split())
    assert settings.resume is True
    assert settings.trainer.progress is ("--trainer.progress" in words)


def test_nested_options_lists_and_false():
    settings = parse(
        "pretrain", "--data", "c", "--out", "r", "--method.flow.contrast.positives", "outside", "--views.size", "32",
        "48", "--resume", "false", "--trainer.progress=false", "--trainer.log-every", "7", "--method.flow.momentum=null",
    )  # fmt: skip
    assert settings.method.flow.contrast.positives == "outside"
    assert tuple(settings.views.size) == (32, 48)
    assert settings.resume is False
    assert settings.trainer.progress is False
    assert settings.trainer.log_every == 7
    assert settings.method.flow.momentum is None


def test_probe_short_form():
    settings = parse(
        "probe", "--task", "segmentation", "--dataset", "cholecseg8k", "--root", "d", "--checkpoint", "r", "--out",
        "o", "--labels", "22", "--seeds", "0", "1", "2",
    )  # fmt: skip
    assert settings.labels == [22]
    assert settings.seeds == [0, 1, 2]


PROBE = ["--task", "segmentation", "--dataset", "d", "--root", "d", "--checkpoint", "r", "--out", "o"]
ODD_NAMES = ["01", "12", "1e3", "no", "null", "~", "2020-01-01", "OR1, left", "a: b", "#1", 'a"b\\c', "é", "[a] b"]


def test_lists_of_text_take_words_as_they_stand():
    for option in ("--test_videos", "--train-videos"):
        settings = parse("probe", *PROBE, option, *ODD_NAMES)
        assert getattr(settings, option[2:].replace("-", "_")) == ODD_NAMES
    assert parse("demo", "--out", "o", "--recipe", "01", "no").recipe == ("01", "no")


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_list_of_one_word_of_text(name):
    assert parse("probe", *PROBE, "--test_videos", name).test_videos == [name]
    assert parse("probe", *PROBE, f"--test-videos={name}").test_videos == [name]


def test_an_option_with_an_equals_sign_is_a_list_of_one():
    settings = parse("probe", *PROBE, "--labels=22", "--seeds=3", "--test_videos=video12", "--oks-sigmas=0.1")
    assert (settings.labels, settings.seeds, settings.test_videos) == ([22], [3], ["video12"])
    assert settings.oks_sigmas == [0.1]
    settings = parse("probe", *PROBE, "--labels=[1, all]", '--test_videos=["01", "b"]', "--image-size=null")
    assert (settings.labels, settings.test_videos, settings.image_size) == ([1, "all"], ["01", "b"], None)


def test_prepare_takes_several_inputs_and_flat_options():
    settings = parse("prepare", "a.mp4", "folder", "--out", "c", "--short-side", "108", "--gaps", "1", "3")
    assert settings.inputs == [Path("a.mp4"), Path("folder")]
    assert settings.settings.short_side == 108
    assert settings.settings.gaps == (1, 3)


def test_export_and_report_short_forms():
    settings = parse("export", "run", "--format", "onnx", "--out", "m.onnx")
    assert (settings.run, settings.format, settings.out) == (Path("run"), "onnx", Path("m.onnx"))
    assert parse("report", "a", "b", "--out", "p.html").runs == [Path("a"), Path("b")]


def test_yaml_keys_and_command_line_over_them(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("max_steps: 5\nbatch_size: 3\nmethod:\n  name: coordinates\n")
    settings = parse("pretrain", "--config", str(path), "--data", "c", "--out", "r", "--batch-size", "4")
    assert (settings.max_steps, settings.batch_size, settings.method.name) == (5, 4, "coordinates")


def test_our_configs_are_found_by_name_and_all_parse():
    assert Path(find_config("small")) == cli.CONFIGS / "small.yaml"
    assert find_config("elsewhere.yaml") == "elsewhere.yaml"
    for path in cli.CONFIGS.glob("*.yaml"):
        assert parse("pretrain", "--config", path.stem, "--data", "c", "--out", "r").max_steps > 0


def test_a_folder_does_not_hide_one_of_our_configs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evidence").mkdir()  # what `laparoflow evidence --out evidence` writes
    assert Path(find_config("evidence")) == cli.CONFIGS / "evidence.yaml"
    (tmp_path / "small").write_text("max_steps: 1")
    assert find_config("small") == "small"


def leaves(values, prefix=()):
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*prefix, key))
        else:
            yield (*prefix, key), value


@pytest.mark.parametrize("name", [path.stem for path in cli.CONFIGS.glob("*.yaml")])
def test_our_configs_hold_differences_only(name):
    default = plain(parse("pretrain", "--data", "c", "--out", "r"))
    written = dict(leaves(yaml.safe_load((cli.CONFIGS / f"{name}.yaml").read_text())))
    assert written
    for path, value in written.items():
        usual = default
        for key in path:
            usual = usual[key]
        assert value != usual, ".".join(path)


@pytest.mark.parametrize(
    "words",
    [
        ["pretrain", "--data", "c", "--out", "r", "--no-such-key", "1"],
        ["pretrain", "--data", "c", "--out", "r", "--trainer.no_such", "1"],
        ["pretrain", "--data", "c", "--out", "r", "--max-steps", "many"],
        ["pretrain", "--data", "c", "--out", "r", "--max-steps", "0"],
        ["pretrain", "--data", "c", "--out", "r", "--method.name", "magic"],
        ["pretrain", "--out", "r"],
        ["pretrain", "--data", "c", "--out", "r", "--config", "nowhere.yaml"],
        ["prepare", "--out", "c"],
    ],
)
def test_wrong_options_end_with_2_and_say_what(words, capsys):
    assert main(words) == 2
    assert "error" in capsys.readouterr().err.lower()


def test_unknown_yaml_key_is_an_error(tmp_path, capsys):
    path = tmp_path / "c.yaml"
    path.write_text("trainer:\n  log_evry: 3\n")
    assert main(["pretrain", "--config", str(path), "--data", "c", "--out", "r"]) == 2
    assert "log_evry" in capsys.readouterr().err


def test_failures_end_with_1_and_name_the_place(tmp_path, capsys):
    missing = tmp_path / "nowhere"
    assert main(["pretrain", "--data", str(missing), "--out", str(tmp_path / "r")]) == 1
    assert str(missing) in capsys.readouterr().err
    assert main(["export", str(missing), "--out", str(tmp_path / "m.safetensors")]) == 1
    assert str(missing) in capsys.readouterr().err
