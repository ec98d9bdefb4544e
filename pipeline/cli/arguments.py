"""What the command line takes, with examples."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn

from pipeline.errors import did_you_mean

EXAMPLES = """\
examples:
  python -m pipeline init                 write a pipeline for the project here
  python -m pipeline plan                 what would run, and why
  python -m pipeline run                  run all of it
  python -m pipeline run gate             run up to the stage `gate`
  python -m pipeline logs unit            what the stage `unit` printed
  python -m pipeline graph --format svg > pipeline.svg

exit codes: 0 passed, 1 a stage or gate failed, 2 usage, configuration or internal error,
3 waiting for approval, 130 interrupted
"""

COMMANDS = {
    "run": ("run stages and what they need", "python -m pipeline run unit --engine host"),
    "resume": ("go on with a run that was cut off", "python -m pipeline resume"),
    "plan": ("show what would run, be reused or skipped, and why", "python -m pipeline plan --output json"),
    "list": ("list the stages", "python -m pipeline list"),
    "graph": ("draw the pipeline", "python -m pipeline graph --format mermaid"),
    "explain": ("why a stage runs, or why it does not", "python -m pipeline explain image"),
    "diff": ("in what two runs differ", "python -m pipeline diff 20260101-1200 20260102"),
    "runs": ("list the runs", "python -m pipeline runs --limit 5"),
    "logs": ("show what a stage printed", "python -m pipeline logs unit --run 20260101"),
    "report": ("write a report of a run", "python -m pipeline report --format junit > junit.xml"),
    "deployments": ("what is deployed, and what rollouts go on", "python -m pipeline deployments --output json"),
    "history": ("every rollout, what came of it, and who did what about it", "python -m pipeline history deploy --limit 5"),
    "promote": ("let a rollout go on with its next step at once", "python -m pipeline promote --why 'the errors are known'"),
    "pause": ("let a rollout stay where it is", "python -m pipeline pause --why 'looking at a log'"),
    "abort": ("take a rollout that goes on back", "python -m pipeline abort --why 'wrong release'"),
    "undo": ("take the latest deployment back", "python -m pipeline undo --why 'complaints'"),
    "retry": ("run again what did not pass", "python -m pipeline retry"),
    "recover": ("take back what a run, or an undo, that was cut off left open", "python -m pipeline recover --take-over"),
    "freeze": ("let no rollout begin", "python -m pipeline freeze --for 2d --why 'a holiday'"),
    "drain": ("take a group out of the traffic", "python -m pipeline drain r-2b6bb223f13f"),
    "cache": ("what the store holds, whether it is whole, and less of it", "python -m pipeline cache prune --size 20000"),
    "doctor": ("what is here, what is missing, and how to get it", "python -m pipeline doctor"),
    "init": ("write a pipeline for the project here", "python -m pipeline init"),
}


VERBS = ("promote", "pause", "abort", "undo", "retry", "recover", "freeze", "drain")
"""Commands by which operators give orders."""

PRUNED = "prune also takes, whatever its limits, what no kept result names, as evidence that earlier runs said no to"


UNTIL = ("--until", "--to")
"""Options that others have for what stages named without an option mean here."""


class Usage(Exception):
    """The words on the command line are off."""


class Parser(argparse.ArgumentParser):
    """Raises Usage where argparse would print its usage and exit, with the nearest option for a misspelt one."""

    def error(self, message: str) -> NoReturn:
        raise Usage(f"{message}\n  next: {self.prog} --help")

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]  # it takes what the overloads of argparse take
        self, args: Iterable[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        words = sys.argv[1:] if args is None else list(args)
        values, unknown = super().parse_known_args(words, namespace)
        wrong = [word for word in unknown if word.startswith("--")]
        for word in sorted(wrong, key=_is_until):  # what else is wrong first: the whole command is shown for these
            if _is_until(word) and hasattr(values, "stages"):
                command = shlex.join([*self.prog.split(), *_up_to(words, named=bool(values.stages))])
                right = "the stage to go up to, without an option"
                raise Usage(f"unrecognized arguments: {word}\n  expected: {right}\n  next: {command}")
            known = [name for name in self._option_string_actions if name.startswith("--")]
            near = did_you_mean(word.partition("=")[0], known)
            self.error(f"unrecognized arguments: {word}\n  expected: {near}")
        return values, unknown


def _is_until(word: str) -> bool:
    return word.partition("=")[0] in UNTIL


def _up_to(words: Sequence[str], *, named: bool) -> Iterator[str]:
    """The words of a command, with the stages alone where an option stood before them; the directory is said elsewhere.

    `named`: there is a stage among them.
    """
    skip = False
    for word, following in zip(words, [*words[1:], "-"], strict=True):
        if skip or word.startswith("-C"):
            skip = word == "-C"
        elif not _is_until(word):
            yield word
        elif value := word.partition("=")[2]:
            yield value
        elif following.startswith("-") and not named:
            yield "STAGE"


def parser() -> Parser:
    """The whole command line."""
    common = Parser(add_help=False)
    common.add_argument("-C", dest="directory", metavar="DIR", default=".", help="the project's directory (here)")
    common.add_argument("--output", choices=("text", "json"), default="text", help="json: one object a line (docs/cli.md)")
    common.add_argument("--color", choices=("auto", "always", "never"), default="auto", help="NO_COLOR is honoured too")
    common.add_argument("--verbose", action="store_true", help="whole traces of errors")
    top = Parser(
        prog="python -m pipeline",
        description="Typed pipelines from a commit to a verified deployment.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="store_true", help="print the version and exit")
    top.add_argument("-C", dest="top_directory", metavar="DIR", help="the project's directory (here)")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    made = {
        name: commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", parents=[common], epilog=f"example: {example}"
        )
        for name, (text, example) in COMMANDS.items()
    }
    for name in ("run", "plan", "explain"):
        _occasion(made[name])
    _stages(made["run"], made["plan"])
    made["run"].add_argument("--dry-run", action="store_true", help="show the plan and do nothing")
    for name in ("run", "resume"):
        made[name].add_argument("--fail-fast", action="store_true", help="start nothing more after the first failure")
        made[name].add_argument("--jobs", type=_positive, default=0, metavar="N", help="processors to use (all)")
        made[name].add_argument("--workers", default="", metavar="ADDRESS", help="a Dask scheduler whose workers execute actions")
    made["resume"].add_argument("run", metavar="RUN", nargs="?", default="", help="a run, or how its id begins (the latest)")
    made["resume"].add_argument(
        "--again", action="append", default=[], metavar="STAGE", help="do it once more where nobody knows"
    )
    made["graph"].add_argument("--format", choices=("text", "mermaid", "dot", "svg", "json"), default="text")
    made["explain"].add_argument("stage", metavar="STAGE")
    made["explain"].add_argument("--since", default="", metavar="RUN", help="what changed since that run (the latest result)")
    made["diff"].add_argument("one", metavar="RUN", help="a run, or how its id begins")
    made["diff"].add_argument("other", metavar="RUN", nargs="?", default="", help="another (the latest)")
    made["runs"].add_argument("--limit", type=_positive, default=20, metavar="N", help="at most so many, the latest (20)")
    made["logs"].add_argument("stage", metavar="STAGE", nargs="?", default="", help="all stages when none is named")
    made["report"].add_argument("--format", choices=("markdown", "json", "junit", "sarif"), default="markdown")
    made["logs"].add_argument("--search", default="", metavar="REGEX", help="only the lines in which it is found")
    for name in ("logs", "report"):
        made[name].add_argument("--run", default="", metavar="ID", help="a run, or how its id begins (the latest)")
    made["cache"].add_argument("what", choices=("stats", "verify", "prune"), help=PRUNED)
    made["cache"].add_argument("--size", type=_positive, default=None, metavar="MIB", help="prune to so many MiB (store_size)")
    made["cache"].add_argument("--days", type=_positive, default=None, metavar="N", help="what was not used so long (store_days)")
    made["cache"].add_argument("--dry-run", action="store_true", help="say what would go, and do nothing")
    made["history"].add_argument("stage", metavar="STAGE", nargs="?", default="", help="of one stage alone")
    made["history"].add_argument("--limit", type=_positive, default=20, metavar="N", help="at most so many, the latest (20)")
    _orders(made)
    made["init"].add_argument("--force", action="store_true", help="write over a pipeline file that is there")
    return top


def _orders(made: dict[str, Parser]) -> None:
    made["drain"].add_argument("group", metavar="GROUP", help="as `deployments` names it")
    for verb in VERBS:
        by_itself = {"freeze": "all that deploy", "retry": "what did not pass"}.get(verb, "the only one")
        made[verb].add_argument("stage", metavar="STAGE", nargs="?", default="", help=f"the stage that deploys ({by_itself})")
        made[verb].add_argument("--why", default="", metavar="TEXT", help="for the journal, and for those who read it")
    made["recover"].add_argument("--take-over", action="store_true", help="end the run first that is at work on it here")
    made["promote"].add_argument("--all", action="store_true", help="all its steps: nothing more is judged")
    for verb in ("pause", "freeze"):
        made[verb].add_argument("--end", action="store_true", help=f"the {verb} is over")
    made["freeze"].add_argument("--for", dest="during", metavar="TIME", help="90m, 8h or 2d (until it is ended)")


def _occasion(command: argparse.ArgumentParser) -> None:
    command.add_argument("--engine", choices=("host", "dagger", "auto"), default="", help="what executes actions (auto)")
    for name, text in (
        ("branch", "the branch conditions see (git's)"),
        ("event", "the event conditions see (the CI system's)"),
        ("environment", "the environment conditions see"),
        ("base", "the revision changes are measured against"),
    ):
        command.add_argument(f"--{name}", default="", metavar=name.upper(), help=text)


def _stages(*commands: argparse.ArgumentParser) -> None:
    for command in commands:
        command.add_argument("stages", metavar="STAGE", nargs="*", help="stages, with all they need (all)")
        command.add_argument(
            "--from", dest="since", action="append", default=[], metavar="STAGE", help="it and all that needs it"
        )
        command.add_argument("--without", action="append", default=[], metavar="STAGE", help="neither it nor what needs it")
        command.add_argument("--only", action="store_true", help="run nothing else: what the stages need has to be there")
        command.add_argument("--failed", action="store_true", help="what did not pass in the latest run")
        command.add_argument("--changed", action="store_true", help="what is made from files that changed since the base")
        command.add_argument("--again", action="append", default=[], metavar="STAGE", help="run it although it is cached")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def parse(words: list[str]) -> argparse.Namespace:
    """The command line as values. Raises Usage, with the nearest command for a misspelt one."""
    top = parser()
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word == "-C":
            skip = True
        elif not word.startswith("-"):
            if word not in COMMANDS:
                near = did_you_mean(word, COMMANDS)
                raise Usage(f"there is no command {word!r}\n  expected: {near}\n  next: python -m pipeline --help")
            break
    values = top.parse_args(words)
    if getattr(values, "top_directory", None) and getattr(values, "directory", ".") == ".":
        values.directory = values.top_directory
    return values


def directory(words: Sequence[str]) -> str:
    """What `-C` says in a command line that is off otherwise; the last one counts."""
    found = "."
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("-C"):
            found = word[2:] or following or found
    return found
