"""The command `clgrad`: its flags, and its errors as one line."""

from __future__ import annotations

import argparse
import difflib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from .errors import Stopped, UsageError

OTHER_FLAGS_ON_RESUME = "--resume RUN goes on from a run's own configuration; leave --config out"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 1 for a failure, 2 for what the user can put right, 130 for Ctrl-C."""
    arguments = [with_hyphens(argument) for argument in (sys.argv[1:] if arguments is None else arguments)]
    debug = os.environ.get("CLGRAD_DEBUG", "0") not in ("", "0")
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a terminal cannot show, or a pipe that is no text, is a "?"
            stream.reconfigure(errors="replace")
    try:
        options = parse(arguments)
        options.run(options)
        if sys.stdout is not None:
            sys.stdout.flush()  # a broken pipe shows here, and not when the interpreter ends
        return 0
    except Stopped as stopped:
        return stopped.exit_code
    except KeyboardInterrupt:
        print("\nclgrad: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if debug or not expected(error):
            raise
        print(f"clgrad: error: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


def expected(error: Exception) -> bool:
    """Whether the message is all that the user needs; anything else is a bug and shows its traceback."""
    from .. import DeviceError

    return isinstance(error, (UsageError, DeviceError, OSError, FloatingPointError, MemoryError, ImportError))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line. Raises UsageError; `--help` and `--version` exit."""
    parser, commands = make_parser()
    options, rest = parser.parse_known_args(arguments)
    if rest:
        raise UsageError(unknown_flags(options.command, commands[options.command], rest))
    return options


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are exceptions."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def unknown_flags(command: str, parser: argparse.ArgumentParser, rest: list[str]) -> str:
    valid = [flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")]
    flag = rest[0].split("=")[0]
    if not flag.startswith("-"):
        return f"clgrad {command} does not know what to do with {flag!r} (see clgrad {command} --help)"
    close = difflib.get_close_matches(flag, valid, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    return f"unknown flag {flag} for clgrad {command}.{hint} Valid: {', '.join(valid)}"


def with_hyphens(argument: str) -> str:
    """--max_iters=5 and --max-iters=5 are the same flag."""
    if not argument.startswith("--"):
        return argument
    flag, equals, value = argument.partition("=")
    return flag.replace("_", "-") + equals + value


def make_parser() -> tuple[Parser, dict[str, argparse.ArgumentParser]]:
    parser = Parser(
        prog="clgrad", description="Train and run small transformers on NumPy and OpenCL.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"clgrad {version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    trainer = commands.add_parser(
        "train",
        help="train a model, or resume a run",
        description="Train a model into a run folder, or go on with a run that was stopped: a GPT on a text "
        "(Shakespeare unless --data says otherwise), or what else --task names. Flags win over --config, which wins "
        "over --preset.",
        allow_abbrev=False,
    )
    add_train_flags(trainer)
    generator = commands.add_parser(
        "generate",
        help="write text with a trained model",
        description="Write text with a model; of other tasks: translate it, fill in its masks, find its label.",
        allow_abbrev=False,
    )
    add_generate_flags(generator)
    talker = commands.add_parser(
        "chat",
        help="talk with the model of a GGUF file",
        description="Talk with the model of a GGUF file, whose chat template says how. Lines are read from the "
        "terminal or a pipe, and answers come as they are made.",
        allow_abbrev=False,
    )
    add_chat_flags(talker)
    describer = commands.add_parser(
        "describe",
        help="show what a published model is made of",
        description="Every stage of a published size, tokens to probabilities, with shapes and parameters; what "
        "training takes. No weight is made. Without PRESET, the names of all.",
        allow_abbrev=False,
    )
    describer.add_argument("preset", metavar="PRESET", nargs="?", help="gpt2, bert-base, ..., or a checkpoint's folder")
    describer.add_argument("--context", type=int, metavar="N", help="tokens to count FLOPs for (default: the most)")
    describer.set_defaults(run=run_describe)
    lister = commands.add_parser(
        "devices",
        help="list the devices and try each",
        description="List NumPy and every OpenCL device, say which is the default and why, and run a kernel on each.",
        allow_abbrev=False,
    )
    lister.set_defaults(run=run_devices)
    tuner = commands.add_parser(
        "tune",
        help="find the fastest block sizes for a device, and keep them",
        description="Time candidates for the block sizes of kernels on an OpenCL device and keep the fastest; runs "
        "from then on use them, and their numbers may differ in the last digits. Takes about a minute.",
        allow_abbrev=False,
    )
    tuner.add_argument("--device", default="CL", help="CL, CL:1, ... (see clgrad devices; default: CL)")
    tuner.set_defaults(run=run_tune)
    return parser, {
        "train": trainer,
        "generate": generator,
        "chat": talker,
        "describe": describer,
        "devices": lister,
        "tune": tuner,
    }


def add_train_flags(parser: argparse.ArgumentParser) -> None:
    from .config import PRECISIONS, PRESETS, SCHEDULES, all_fields, field_defaults

    parser.add_argument("--resume", metavar="RUN", help="go on with the run in this folder")
    parser.add_argument("--config", metavar="FILE.toml", help="read fields from a TOML file")
    helps = dict(
        preset=f"one of {', '.join(PRESETS)}",
        task="lm (go on with a text), translate, classify, mlm (find hidden tokens)",
        data="a UTF-8 text file, whose first 90 %% train (default: Shakespeare's plays); translate: source, tab, "
        "target on each line, or Debian's trans-de-en; classify: label, tab, text, or a folder of texts for each label",
        tokenizer="char, bpe (learnt from the data), or the file of a tokenizer (default: char for lm, else bpe)",
        held_out="of translate and classify: how many pairs or texts validate",
        accumulate="batches whose gradients make one update",
        schedule=f"one of {', '.join(SCHEDULES)}",
        precision=f"one of {', '.join(PRECISIONS)}",
        checkpointing="layers compute their inner values again for the gradient: less memory, the same numbers",
        label_smoothing="the share of each target that all others get",
        beams="of the translations at the end; 1 is greedy",
        device="NUMPY, CL, CL:1, ... (see clgrad devices)",
        out="the new run folder (default: runs/PRESET)",
        vocab_size="of a BPE to be learnt; with characters it follows from the text",
        weight_decay="of matrices only",
        grad_clip="the largest norm of all gradients together; 0 does not clip",
        min_lr="where cosine and line end, at max_iters",
        sample_tokens="the length of the sample at the end",
    )
    defaults = field_defaults() | {"vocab_size": ""} | PRESETS["shakespeare"]
    for name, kind in all_fields().items():
        default = defaults.get(name, "")
        shown = helps.get(name, "") + (f" (default: {default})" if default != "" else "")
        options: dict[str, Any] = dict(dest=name, default=argparse.SUPPRESS, help=shown.strip())
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options |= dict(type=kind, metavar=kind.__name__.upper())
        parser.add_argument("--" + name.replace("_", "-"), **options)
    parser.set_defaults(run=run_train)


def add_generate_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", metavar="RUN", help="a run folder of clgrad train, a folder of Hugging Face's, or a .gguf file"
    )
    parser.add_argument(
        "--prompt", default="\n", help="the text to go on from, to translate, to label (default: a line break)"
    )
    parser.add_argument("--max-tokens", type=int, default=300, metavar="N", help="how many at most (default: 300)")
    parser.add_argument("--temperature", type=float, default=0.8, metavar="T", help="0 is greedy (default: 0.8)")
    parser.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest tokens")
    parser.add_argument("--top-p", type=float, metavar="P", help="draw from the likeliest that together have P")
    parser.add_argument("--min-p", type=float, metavar="P", help="draw from those of P times the likeliest's share")
    parser.add_argument(
        "--repetition-penalty", type=float, default=1.0, metavar="R", help="above 1: less of what was said (default: 1)"
    )
    parser.add_argument(
        "--beams", type=int, default=1, metavar="N", help="search for the best text, N at a time, instead of drawing"
    )
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before it; may come again")
    parser.add_argument("--seed", type=int, help="of the draws (default: different every time)")
    parser.add_argument("--device", default="auto", help="NUMPY, CL, CL:1, ... (see clgrad devices)")
    parser.set_defaults(run=run_generate)


def add_chat_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.gguf", help="a model that was made for chats")
    parser.add_argument("--system", metavar="TEXT", help="what the model is told before everything")
    parser.add_argument("--max-tokens", type=int, default=512, metavar="N", help="of one answer (default: 512)")
    parser.add_argument("--temperature", type=float, default=0.2, metavar="T", help="0 is greedy (default: 0.2)")
    parser.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest tokens")
    parser.add_argument("--top-p", type=float, default=0.9, metavar="P", help="from those that together have P (0.9)")
    parser.add_argument("--seed", type=int, help="of the draws (default: different every time)")
    parser.add_argument("--device", default="auto", help="NUMPY, CL, CL:1, ... (see clgrad devices)")
    parser.set_defaults(run=run_chat)


def run_train(options: argparse.Namespace) -> None:
    from .config import all_fields, resolve

    flags = {name: value for name, value in vars(options).items() if name in all_fields()}
    if options.resume is not None:
        if options.config is not None:
            raise UsageError(OTHER_FLAGS_ON_RESUME)
        from .train import resume

        resume(Path(options.resume), flags)
        return
    chosen = resolve(flags, options.config)
    from .train import train

    train(chosen)


def run_generate(options: argparse.Namespace) -> None:
    from .devices import choose_device
    from .generate import opened

    if options.beams < 1:
        raise UsageError(f"--beams must be at least 1, not {options.beams}")
    names = ("max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "beams", "stop")
    answer = opened(Path(options.folder), choose_device(options.device))
    answer(options.prompt, **{name: getattr(options, name) for name in names})


def run_chat(options: argparse.Namespace) -> None:
    from .chat import chat
    from .devices import choose_device

    names = ("system", "max_tokens", "seed", "temperature", "top_k", "top_p")
    chosen = {name: getattr(options, name) for name in names}
    chat(Path(options.file), choose_device(options.device), **chosen)


def run_describe(options: argparse.Namespace) -> None:
    from .describe import print_description

    print_description(options.preset, options.context)


def run_devices(options: argparse.Namespace) -> None:
    from .devices import print_devices

    print_devices()


def run_tune(options: argparse.Namespace) -> None:
    from .tune import tune_device

    tune_device(options.device)


def version() -> str:
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("clgrad")
    except PackageNotFoundError:
        return "(not installed)"
