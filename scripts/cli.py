"""The ``closedloop`` command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from rl.errors import RunInterrupted, TransferError, WeightMismatchError, WorkerFailedError

BENCHES = {
    "rollout": ("plain", "rollout"),
    "train": ("plain", "train"),
    "rewards": ("rewards", "measure_rewards"),
    "concurrency": ("rollouts", "concurrency"),
    "modes": ("modes", "modes"),
    "iteration": ("iteration", "iteration"),
    "sync": ("sync", "sync"),
    "scale": ("scale", "scale"),
}
"""Module and function of each benchmark."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Exit codes: 0 done, 1 failed on the way, 2 wrong input, 130 stopped on request."""
    sys.path.insert(0, str(Path.cwd()))
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        run: Callable[[argparse.Namespace], int] = options.run
        return run(options)
    except ValueError as error:
        if os.environ.get("CLOSEDLOOP_TRACEBACK"):
            raise
        print(f"closedloop: {error}", file=sys.stderr)
        return 2
    except (WorkerFailedError, TransferError, WeightMismatchError) as error:
        print(f"closedloop: {error}", file=sys.stderr)
        return 1
    except RunInterrupted as error:
        print(f"closedloop: {error}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("closedloop: stopped at once; the last checkpoint is intact", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="closedloop", description="RL post-training of language models.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train",
        help="run the main job",
        description="Run the main job with the settings of conf/config.yaml and these overrides.",
        epilog=_settings(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides, for example iterations=10")
    train.add_argument("--config-dir", help="folder with group files and experiments of your own")
    train.add_argument("--print-config", action="store_true", help="print the composed settings and stop")
    train.set_defaults(run=_train)

    doctor = commands.add_parser("doctor", help="what is installed, what works, and what to do about the rest")
    doctor.set_defaults(run=_doctor)

    export = commands.add_parser("export", help="write a run's policy as a Hugging Face folder")
    export.add_argument("run_folder", type=Path, help="for example runs/quickstart")
    export.add_argument("target", type=Path, help="folder to create")
    export.set_defaults(run=_export)

    plot = commands.add_parser("plot", help="draw the curves of one or more runs; self-0, self-1, … are averaged")
    plot.add_argument("run_folders", type=Path, nargs="+")
    plot.add_argument("--output", type=Path, default=Path("curve.png"), help="picture to write (default: curve.png)")
    plot.set_defaults(run=_plot)

    _tasks_commands(commands.add_parser("tasks", help="look at training tasks and choose among them"))
    _reward_commands(commands.add_parser("reward", help="write and check rewards of your own"))
    _env_commands(commands.add_parser("env", help="write and check environments of your own"))
    _critic_commands(commands.add_parser("critic", help="find out whether a model can judge"))

    bench = commands.add_parser("bench", help="measure one part, or whole iterations")
    bench.add_argument("part", choices=tuple(BENCHES))
    bench.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides, as for train")
    bench.set_defaults(run=_bench)
    return parser


def _tasks_commands(tasks: argparse.ArgumentParser) -> None:
    commands = tasks.add_subparsers(title="commands", required=True, metavar="COMMAND")
    report = commands.add_parser("report", help="tags, kinds, prompt lengths, unsuitable types of the training tasks")
    filtered = commands.add_parser(
        "filter",
        help="measure every training task with the model and keep those of moderate difficulty",
        description="Samples every task with the configured model, writes what was measured beside the output as it "
        "goes (the same command goes on from there after a stop), and at the end the kept tasks, ready for "
        "tasks=saved tasks.train.path=OUTPUT, and a manifest.",
    )
    filtered.add_argument("--output", type=Path, required=True, help="file of kept tasks to write (.jsonl)")
    filtered.add_argument("--low", type=float, default=0.0, help="keep pass rates above this (default: %(default)s)")
    filtered.add_argument("--high", type=float, default=1.0, help="keep pass rates below this (default: %(default)s)")
    filtered.add_argument("--samples", type=int, default=10, help="tries per task (default: %(default)s)")
    filtered.add_argument("--guesses", type=int, default=8, help="tries without reasoning; 0 for none (default: 8)")
    filtered.add_argument("--all-types", action="store_true", help="also keep choice, true-or-false and proof tasks")
    for parser in (report, filtered):
        parser.add_argument("--limit", type=int, help="look at the first so many tasks; needed for endless sources")
        parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides, as for train")
    report.set_defaults(run=_tasks_report)
    filtered.set_defaults(run=_tasks_filter)


def _tasks_report(options: argparse.Namespace) -> int:
    from rl.compose import load_config
    from scripts.tasks_command import report

    return report(load_config(options.overrides), options.limit)


def _tasks_filter(options: argparse.Namespace) -> int:
    from rl.compose import load_config
    from rl.selection import Filter
    from scripts.tasks_command import filter_tasks

    rules = Filter(
        low=options.low, high=options.high, drop_guessed=options.guesses > 0, drop_types=not options.all_types
    )
    return filter_tasks(
        load_config(options.overrides),
        rules,
        output=options.output,
        samples=options.samples,
        guesses=options.guesses,
        limit=options.limit,
    )


def _reward_commands(reward: argparse.ArgumentParser) -> None:
    commands = reward.add_subparsers(title="commands", required=True, metavar="COMMAND")
    new = commands.add_parser("new", help="write a package with a reward, its configuration, a test and sample rows")
    new.add_argument("name", help="Python name of the reward, for example my_reward")
    new.add_argument("--parent", type=Path, default=Path(), help="folder to write into (default: here)")
    new.set_defaults(run=_reward_new)

    check = commands.add_parser(
        "check",
        help="run a reward as training would and say whether it is fit to train on",
        description="Scores every reply three times in the process pool of a run, and four cheats per task. Prints a "
        "table; exits with 1 if the reward is unfit to train on.",
    )
    check.add_argument("target", help="dotted path of a function or class, an installed plugin, or a conf/reward name")
    check.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings of the reward")
    check.add_argument(
        "--data",
        required=True,
        help="rows with prompt (or question, text, problem), the reward's fields, responses",
    )
    check.add_argument("--responses", help="more replies: rows with the id (or number, from 0) of a task and response")
    check.add_argument("--deadline", type=float, default=30.0, help="seconds per call (default: %(default)s)")
    check.add_argument("--workers", type=int, default=2, help="calls at once (default: %(default)s)")
    check.set_defaults(run=_reward_check)


def _env_commands(env: argparse.ArgumentParser) -> None:
    commands = env.add_subparsers(title="commands", required=True, metavar="COMMAND")
    new = commands.add_parser("new", help="write an environment in one file, and a test of it")
    new.add_argument("name", help="Python name of the environment, for example my_env")
    new.add_argument("--parent", type=Path, default=Path(), help="folder to write into (default: here)")
    new.set_defaults(run=_env_new)

    check = commands.add_parser(
        "check",
        help="run an environment without a model and say whether it is fit to train in",
        description="Plays every task with empty turns, nonsense and tool calls, right and wrong ones: alone, once "
        "more, and at the same time. Prints a table; exits with 1 if the environment is unfit to train in.",
    )
    check.add_argument("target", help="dotted path of a class, or a name in the configuration's env")
    check.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings of the environment")
    check.add_argument("--tasks", help="tasks to play (.jsonl): rows of prompt (or messages) and fields; default: two")
    check.add_argument("--deadline", type=float, default=120.0, help="seconds per answer (default: %(default)s)")
    check.set_defaults(run=_env_check)


def _critic_commands(critic: argparse.ArgumentParser) -> None:
    commands = critic.add_subparsers(title="commands", required=True, metavar="COMMAND")
    check = commands.add_parser(
        "check",
        help="measure the configured model as a critic: accuracy, order flips, what tricks in a reply gain",
        description="Samples replies with model.path, judges pairs of which a verifier knows the better one, and ranks "
        "replies with and without praise, pleas, verdicts and padding added to them. Prints two tables; exits with 1 "
        "if a trick pays.",
    )
    check.add_argument("--pairs", type=int, default=64, help="most pairs of each sort (default: %(default)s)")
    check.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides, as for train")
    check.set_defaults(run=_critic_check)


def _critic_check(options: argparse.Namespace) -> int:
    from rl.compose import load_config
    from scripts.critic_check import check

    return check(load_config(options.overrides), pairs=options.pairs)


def _reward_new(options: argparse.Namespace) -> int:
    from scripts.reward_new import new_reward

    folder = new_reward(options.name, options.parent)
    print(f"{folder}: see its README.md; next: pip install -e {folder}")
    return 0


def _reward_check(options: argparse.Namespace) -> int:
    from scripts.reward_check import check, parse_settings

    return check(
        options.target,
        parse_settings(options.settings),
        options.data,
        options.responses,
        deadline_s=options.deadline,
        workers=options.workers,
    )


def _env_new(options: argparse.Namespace) -> int:
    from scripts.env_new import new_env

    files, target = new_env(options.name, options.parent)
    print(f"{' and '.join(map(str, files))}; next: closedloop env check {target}")
    return 0


def _env_check(options: argparse.Namespace) -> int:
    from scripts.env_check import check
    from scripts.reward_check import parse_settings

    return check(options.target, parse_settings(options.settings), options.tasks, deadline_s=options.deadline)


def _settings() -> str:
    from rl.compose import CONF, option_paths

    groups = [
        f"  {folder.name}={'|'.join(sorted(p.stem for p in folder.glob('*.yaml')))}"
        for folder in sorted(CONF.iterdir())
        if folder.is_dir()
    ]
    paths = "\n".join(f"  {path}" for path in option_paths())
    return "choices:\n" + "\n".join(groups) + "\n\nsettings (explained in rl/config.py):\n" + paths


def _train(options: argparse.Namespace) -> int:
    from rl.compose import load_config

    config = load_config(options.overrides, config_dir=options.config_dir)
    if options.print_config:
        from omegaconf import OmegaConf

        print(OmegaConf.to_yaml(OmegaConf.structured(config)))
        return 0
    from rl.launch import train

    train(config)
    return 0


def _doctor(_options: argparse.Namespace) -> int:
    from scripts.doctor import examine

    return examine()


def _export(options: argparse.Namespace) -> int:
    from scripts.export import export

    export(options.run_folder, options.target)
    return 0


def _plot(options: argparse.Namespace) -> int:
    from scripts.plot import plot

    plot(options.run_folders, options.output)
    return 0


def _bench(options: argparse.Namespace) -> int:
    from rl.compose import load_config

    module, function = BENCHES[options.part]
    measure = getattr(import_module(f"scripts.bench.{module}"), function)
    if options.part == "rewards":
        return int(measure())
    # The trainings of ``modes`` compose their own configurations.
    return int(measure(options.overrides if options.part == "modes" else load_config(options.overrides)))


if __name__ == "__main__":
    sys.exit(main())
