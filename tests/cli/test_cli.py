import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from laparoflow import cli
from laparoflow.bounds import plain
from laparoflow.cli import main
from laparoflow.commands import COMMANDS, find_command
from laparoflow.options import CONFIGS, find_config, load_recipe, options_of

HEAVY = ("torch", "lightning", "timm", "cv2", "numpy")


def parse(command, *words):
    return cli.parse(find_command(command), list(words))


def loaded_by(*lines):
    """What the lines of code print, and which heavy packages they load."""
    code = "\n".join(["import sys", *lines, f"print(sorted(set({HEAVY}) & set(sys.modules)))"])
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return answer.stdout, answer.stdout.splitlines()[-1]


def test_help_loads_no_implementation():
    text, heavy = loaded_by("from laparoflow.cli import main", "assert main(['--help']) == 0")
    assert heavy == "[]"
    for name in COMMANDS:
        assert f"  {name}" in text
    calls = [f"assert main(['{name}', '{option}']) == 0" for name in COMMANDS for option in ("--help", "--help-all")]
    assert loaded_by("from laparoflow.cli import main", *calls)[1] == "[]"


def test_a_reader_that_closes_early_gets_no_traceback():
    command = [sys.executable, "-m", "laparoflow", "pretrain", "--help-all"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


@pytest.mark.parametrize(
    "words",
    [
        "prepare nowhere --out c",
        "pretrain --data nowhere --out r",
        "probe --task segmentation --dataset synthetic --root nowhere --checkpoint r --out o",
        "export nowhere --out o.safetensors",
        "report nowhere --out o.html",
        "evidence --scenes real --real_root nowhere --out o",
    ],
)
def test_a_wrong_path_is_refused_before_anything_heavy_is_loaded(words):
    call = f"assert main({words.split()}) == 1"
    text, heavy = loaded_by("from laparoflow.cli import main", "sys.stderr = sys.stdout", call)
    assert "nowhere" in text
    assert heavy == "[]"


def test_help_shows_some_thirty_options_and_help_all_the_rest_of_the_chosen_method(capsys):
    for name in COMMANDS:
        command = find_command(name)
        basic = [option for group in command.basic.values() for option in group]
        needed = {option for option, action in options_of(command.settings).items() if action.required}
        assert needed <= set(basic or options_of(command.settings))
        unknown = {option for option in basic if "CHOSEN" not in option} - set(options_of(command.settings))
        assert not unknown
        assert main([name, "--help"]) == 0
        text = capsys.readouterr().out
        shown = len(re.findall(r"\(default:|\(needed\)", text))
        assert shown <= 36 and (basic or shown >= len(options_of(command.settings))), name
    assert main(["pretrain", "--help-all"]) == 0
    whole = capsys.readouterr().out
    assert "--optimiser.betas" in whole and "--method.flow.min_motion" in whole and "--method.pixpro" not in whole
    assert main(["pretrain", "--method.name", "pixpro", "--help-all"]) == 0
    whole = capsys.readouterr().out
    assert "--method.pixpro.sharpness" in whole and "--method.flow" not in whole
    assert main(["prepare", "--help-all"]) == 0
    assert "None" not in whole + capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("pretrian --data c", "did you mean pretrain?"),
        ("pretrain --data c --out r --max_step 5", "did you mean --max_steps?"),
        ("pretrain --data c --out r --log_every 5", "--trainer.log_every"),
        ("probe --datset d", "did you mean --dataset?"),
        ("pretrain --data c --out r --method.pixpro.sharpness 2", "method.name is 'flow'"),
        ("pretrain --data c --out r stray", "'stray'"),
        ("pretrain --data c --out --seed 1", "--out: expected a value"),
    ],
)
def test_a_typo_is_named_with_its_neighbour_above_a_usage_of_two_lines(words, hint, capsys):
    assert main(words.split()) == 2
    error, *usage = capsys.readouterr().err.splitlines()
    assert hint in error
    assert len(usage) == 2
    assert usage[0].startswith("usage: laparoflow ")


def test_recipes_and_words_give_the_same_settings():
    words = "--config evidence --config large_views --data c --out r --seed 3 --views.size 32 48"
    changes = {"data": Path("c"), "out": "r", "seed": 3, "views.size": (32, 48)}
    assert load_recipe(["evidence", "large_views"], changes) == parse("pretrain", *words.split())
    assert load_recipe(["evidence"], changes).max_steps == 250


def test_an_error_of_another_kind_is_one_line_too_and_the_stack_can_be_asked_for(monkeypatch, capsys, tmp_path):
    def fail(settings):
        raise KeyError(101)

    command = find_command("report")
    monkeypatch.setattr(cli, "find_command", lambda name: replace(command, run=fail, files={}, folders={}))
    assert main(["report", str(tmp_path), "--out", "p.html"]) == 1
    text = capsys.readouterr().err
    assert "KeyError: 101" in text and "Traceback" not in text
    monkeypatch.setenv("LAPAROFLOW_TRACEBACK", "1")
    with pytest.raises(KeyError):
        main(["report", str(tmp_path), "--out", "p.html"])


def test_no_or_unknown_command(capsys):
    assert main([]) == 2
    assert "pretrain" in capsys.readouterr().out
    assert main(["nothing"]) == 2
    assert "'nothing'" in capsys.readouterr().err


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
    assert Path(find_config("small")) == CONFIGS / "small.yaml"
    assert find_config("elsewhere.yaml") == "elsewhere.yaml"
    for path in CONFIGS.glob("*.yaml"):
        assert parse("pretrain", "--config", path.stem, "--data", "c", "--out", "r").max_steps > 0


def test_a_folder_does_not_hide_one_of_our_configs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evidence").mkdir()  # what `laparoflow evidence --out evidence` writes
    assert Path(find_config("evidence")) == CONFIGS / "evidence.yaml"
    (tmp_path / "small").write_text("max_steps: 1")
    assert find_config("small") == "small"


def leaves(values, prefix=()):
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*prefix, key))
        else:
            yield (*prefix, key), value


@pytest.mark.parametrize("name", [path.stem for path in CONFIGS.glob("*.yaml")])
def test_our_configs_hold_differences_only(name):
    default = plain(parse("pretrain", "--data", "c", "--out", "r"))
    written = dict(leaves(yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())))
    assert written
    for path, value in written.items():
        usual = default
        for key in path:  # what timm takes is no field of ours
            usual = usual.get(key) if path[:2] == ("encoder", "backbone_options") else usual[key]
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


def test_a_place_that_cannot_be_written_to_is_refused_before_the_work(tmp_path, monkeypatch, capsys):
    def work(settings):
        raise AssertionError("the work was begun")

    for name, words in (
        ("report", [str(tmp_path), "--out", "/proc/page.html"]),
        ("export", [str(tmp_path), "--out", "/proc/model.safetensors"]),
        ("probe", [*PROBE[:4], "--root", str(tmp_path), "--checkpoint", str(tmp_path), "--out", "/proc/probe"]),
    ):
        command = find_command(name)
        monkeypatch.setattr(cli, "find_command", lambda name, command=command: replace(command, run=work))
        assert main([name, *words]) == 1
        assert "out: cannot write /proc/" in capsys.readouterr().err


def test_a_page_is_not_overwritten_without_being_told(tmp_path, capsys):
    page = tmp_path / "page.html"
    page.write_text("precious")
    words = ["report", str(tmp_path), "--out", str(page)]
    assert main(words) == 1
    assert "overwrite" in capsys.readouterr().err
    assert page.read_text() == "precious"
    assert main([*words, "--overwrite"]) == 1  # now the folder is looked at, which holds no run
    assert "nothing to report" in capsys.readouterr().err
