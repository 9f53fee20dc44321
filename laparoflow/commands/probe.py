"""``laparoflow probe``."""

from __future__ import annotations

from laparoflow.commands.base import RUN, Command
from laparoflow.probes.settings import ProbeSettings


def run(settings: ProbeSettings) -> None:
    from laparoflow.probes.run import run_probe

    metrics = run_probe(settings)
    for row in metrics["summary"]:
        scores = ", ".join(
            f"{name} {value['mean']:.3f}"
            for name, value in row.items()
            if isinstance(value, dict) and value["mean"] is not None
        )
        print(f"{row['backbone']}, {row['labels']} labels: {scores}")
    for name, budgets in metrics["label_budgets"].items():
        for asked, count in budgets.items():
            if asked != str(count):
                print(f"{name} {asked}: {count} of {metrics['split']['train_frames']} training frames")
    for text in metrics["warnings"]:
        print(f"note: {text}")
    print(f"metrics and pictures in {settings.out}")


COMMAND = Command(
    ProbeSettings,
    run,
    {
        "what goes in and out": ("task", "dataset", "root", "checkpoint", "out", "overwrite", "dataset_options"),
        "labels and seeds": ("labels", "seeds", "split", "test_fraction", "test_videos", "train_videos"),
        "the head": ("head", "level", "image_size", "steps", "batch_size", "learning_rate", "finetune", "finetune_steps"),
        "controls": ("random_control", "scratch_labels", "weights_control", "weights_backbone"),
        "another data set": ("test_dataset", "test_root", "class_map"),
        "the machine": ("device", "pictures"),
    },
    files={"checkpoint": RUN, "weights_control": "a file of weights"},
    folders={"root": "the folder of the data set", "test_root": "the folder of test_dataset"},
)
