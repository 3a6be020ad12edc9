"""The command line. Results go to stdout, everything else to stderr, and the exit code is the verdict.

Exit codes: 0 done, or consistent; 1 a claim is violated; 3 inconclusive; 2 could not run; 130 interrupted.
Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer

import securefd
from securefd.errors import ConfigError, ReportError, SecurefdError
from securefd.progress import Progress, RichProgress, Silent

if TYPE_CHECKING:
    from securefd.defenses.keys import PublicIdentity
    from securefd.defenses.rosters import Listed
    from securefd.evaluation.findings import Audit, Outcome

COULD_NOT_RUN = 2
INTERRUPTED = 130
INTERRUPTION = "interrupted; a run that was started goes on with the same command"
SHOW_CURSOR = "\r\x1b[2K\x1b[?25h"
"""Clears a line of a terminal, and shows the cursor that a progress display hides."""

app = typer.Typer(
    name="securefd",
    add_completion=False,
    pretty_exceptions_enable=False,
)

identity = typer.Typer(help="Make, list and pin the keys by which parties of a sealed sum know one another.")
app.add_typer(identity, name="identity")

AsJson = Annotated[bool, typer.Option("--json", help="Print the result on stdout as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
ConfigFile = Annotated[Path, typer.Argument(metavar="FEDERATION.TOML", help="The configuration.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]
KeyFolder = Annotated[Path, typer.Option("--dir", metavar="DIR", help="The folder of NAME.key and NAME.pub.")]


class Schema(StrEnum):
    """What `securefd schema` can print."""

    CONFIG = "config"
    POLICY = "policy"
    REPORT = "report"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Whatever goes wrong is one sentence on stderr.

    Without ``arguments`` the process is the command's own: it takes those of the process, Ctrl-C ends it, and
    the user's own functions are found in the current folder, after everything that is installed.
    """
    if arguments is None:
        sys.path.append(str(Path.cwd()))
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not in the background
            signal.signal(signal.SIGINT, _leave)
    debug = bool(os.environ.get("SECUREFD_DEBUG"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter shows ?
    with nullcontext() if debug or sys.warnoptions else _without_advice():
        try:
            code = app(args=arguments, prog_name="securefd", standalone_mode=False)
        except (KeyboardInterrupt, click.Abort):
            code = INTERRUPTED
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else "securefd"
            return _fail(f"{error.format_message().rstrip('.')}; see `{command} --help`")
        except (click.ClickException, SecurefdError, OSError) as error:
            if debug:
                traceback.print_exc()
            return _fail(_sentence(error))
        except Exception as error:  # the last resort: no user should see a traceback unasked
            if debug:
                traceback.print_exc()
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            return _fail(
                f"internal error ({reason}); set SECUREFD_DEBUG=1 to see where, and please report it"
            )
    if code == INTERRUPTED:  # typer, too, returns this code for Ctrl-C
        return _fail(INTERRUPTION, INTERRUPTED)
    return code if isinstance(code, int) else 0


@contextmanager
def _without_advice() -> Iterator[None]:
    """Keep libraries' warnings, which are for programmers, off the terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def _leave(number: int, frame: object) -> None:
    """End at once: a run endures being killed at any moment.

    An exception instead would abort native code that is being imported or calls back, and wait for threads.
    """
    cursor = SHOW_CURSOR if sys.stderr.isatty() else ""
    with suppress(OSError):
        os.write(2, f"{cursor}securefd: {INTERRUPTION}\n".encode())
    os._exit(INTERRUPTED)


def _version(wanted: bool) -> None:
    if wanted:
        _print([f"securefd {securefd.__version__}"])
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version.")
    ] = False,
) -> None:
    """Private, secure federated distillation, and audits of what it leaks."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for runs and report.")] = Path("demo"),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """The whole story on handwritten digits, in minutes: five clients, three ways, audited and reported."""
    from securefd.demo import demo as run_demo

    lines = run_demo(out, _progress(quiet))
    _result({"lines": lines, "path": out}, lines, as_json)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write it; made if needed.")],
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write a commented federation.toml with every key and its default, and a policy.toml."""
    from securefd.evaluation.policy_template import POLICY_TEMPLATE
    from securefd.template import TEMPLATE

    path, policy = folder / "federation.toml", folder / "policy.toml"
    folder.mkdir(parents=True, exist_ok=True)
    if taken := [each for each in (path, policy) if each.exists()]:
        raise ConfigError(f"{taken[0]} exists already and is kept; give another folder, or move it away")
    for file, text in ((path, TEMPLATE), (policy, POLICY_TEMPLATE)):
        with file.open("x", encoding="utf-8") as new:
            new.write(text)
    _result(
        {"path": path, "policy": policy},
        [f"wrote {path}", f"wrote {policy}", f"next: securefd plan {path}"],
        as_json,
    )


@app.command()
def plan(
    config: ConfigFile,
    group: Annotated[
        int | None,
        typer.Option(min=2, metavar="K", help="Also what is promised to K units of one person."),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Say what a federation promises and costs, with every default; trains nothing."""
    from securefd.config import load_config, resolved, to_toml

    settings = load_config(config)
    planned = securefd.plan(settings)
    lines = planned.lines() if group is None else [*planned.lines(), "", *planned.group_lines(group)]
    lines += ["", "# every setting, defaults filled in", *to_toml(settings).splitlines()]
    found = {**planned.to_dict(), "config": resolved(settings)}
    if group is not None:
        found["group"] = planned.group(group)
    _result(found, lines, as_json)


@app.command()
def run(
    config: ConfigFile,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="RUN", help="The run folder.")],
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run a federation, or resume one that was interrupted."""
    settings = securefd.load_config(config)
    done = securefd.run(settings, out=out, progress=_progress(quiet))
    result = {**done.metrics, "claims": done.claims, "notes": done.notes, "path": done.path}
    shown = {key: value for key, value in result.items() if key != "student.utility"}  # --json has it
    _result(result, _table(shown), as_json)


@app.command()
def audit(
    run: Annotated[Path | None, typer.Argument(help="A folder that `securefd run` made.")] = None,
    scores: Annotated[
        Path | None, typer.Option(metavar="FILE.npz", help="Audit any model, from arrays, instead of a run.")
    ] = None,
    coin_flips: Annotated[
        bool, typer.Option("--coin-flips", help="With --scores: independent fair coins decided membership.")
    ] = False,
    epsilon: Annotated[
        float | None, typer.Option(help="With --scores: claimed for one record under add-or-remove.")
    ] = None,
    delta: Annotated[float, typer.Option(help="With --scores: of claim and bound.")] = 1e-5,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; else those of the run.")] = None,
    backend: Annotated[str, typer.Option(help="Of joblib, by name, such as loky or ray.")] = "loky",
    records: Annotated[
        bool, typer.Option("--records", help="Also write RUN/audit/records.csv, private: risk by record.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Attack a run from every observer's view, or any model's scores, and hold it against what is claimed."""
    if (run is None) == (scores is None):
        raise click.UsageError("name a run folder or --scores FILE.npz, and not both; see audit --help")
    if run is None:
        from securefd.defenses.claims import Guarantee
        from securefd.evaluation.any_model import load_scores

        claim = None
        if epsilon is not None:
            claim = Guarantee(epsilon=epsilon, delta=delta, unit="record", relation="add-or-remove")
        assert scores is not None
        done = securefd.audit_scores(**load_scores(scores), claim=claim, coin_flips=coin_flips, delta=delta)
    else:
        done = securefd.audit(
            securefd.load_run(run),
            progress=_progress(quiet),
            per_record=records,
            workers=workers,
            backend=backend,
        )
    result = {**_plain(done), "judgement": done.judgement}
    _result(result, _audit_lines(done), as_json)
    raise typer.Exit(done.exit_code)


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(metavar="SWEEP.TOML", help="A base federation and a grid.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of cells and results.")],
    workers: Annotated[
        int | None, typer.Option(min=1, help="Cells at a time; else the base's performance.workers.")
    ] = None,
    backend: Annotated[str, typer.Option(help="Of joblib, by name, such as loky or ray.")] = "loky",
    policy: Annotated[
        Path | None,
        typer.Option(metavar="POLICY.TOML", help="Also name the cheapest setting that meets it."),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run a grid of federations side by side, or go on with one that was interrupted, and compare them."""
    from securefd.evaluation.policy import load_policy
    from securefd.evaluation.sweep_lines import begun, told

    plan = securefd.load_sweep(file)
    rules = None if policy is None else load_policy(policy)
    if not quiet:
        print(begun(plan, out), file=sys.stderr)
    done = securefd.sweep(plan, out, _progress(quiet), workers=workers, backend=backend, policy=rules)
    _result(done.to_dict(), told(done, plan, rules), as_json)


@app.command()
def report(
    run: RunFolder,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="STEM", help="Files are STEM.json, STEM.html, ...")
    ],
    formats: Annotated[str, typer.Option(help="Which files to write, with commas between.")] = "json,html",
    policy: Annotated[
        Path | None, typer.Option(metavar="POLICY.TOML", help="Judge by its rules, not by claims alone.")
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(metavar="NAME.key", help="Sign STEM.json and the other files with this private key."),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write the report of a run: what it promised, what was found, and the verdict."""
    if not out.name:
        raise ReportError(
            f"--out must end in a name for the files, got {str(out)!r}; give one such as report"
        )
    judged = {} if policy is None else {"policy": securefd.load_policy(policy)}
    made = securefd.report(securefd.load_run(run), **judged)
    paths = made.write(out, formats=[name.strip() for name in formats.split(",")], key=key)
    _result(
        {"verdict": made.verdict, "paths": paths},
        [f"verdict: {made.verdict}", *(f"wrote {path}" for path in paths)],
        as_json,
    )


@app.command()
def check(
    run: RunFolder,
    policy: Annotated[Path, typer.Option(metavar="POLICY.TOML", help="The rules that it must meet.")],
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Hold a run and its audit against a policy: exit 0 pass, 1 fail, 3 inconclusive."""
    from securefd.evaluation.checking import EXIT_CODES, lines
    from securefd.evaluation.checking import check as checked

    rules = securefd.load_policy(policy)
    found = checked(securefd.load_run(run), rules)
    _result({"run": run, "policy_file": policy, **found.model_dump()}, lines(found), as_json)
    raise typer.Exit(EXIT_CODES[found.verdict])


@app.command()
def verify(
    report: Annotated[Path, typer.Argument(metavar="STEM.json", help="The report, its files beside it.")],
    key: Annotated[
        Path | None, typer.Option(metavar="NAME.pub", help="The signer's public key, which you trust.")
    ] = None,
    run: Annotated[
        list[Path] | None, typer.Option(metavar="RUN", help="Also hold it against a run; may be repeated.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Check a signed report: exit 0 valid, 1 altered, 3 no trusted key given."""
    from securefd.evaluation.verifying import lines

    found = securefd.verify(report, key=key, runs=run or ())
    told = {name: getattr(found, name) for name in ("outcome", "keyid", "altered", "missing", "checked")}
    verdict = None if found.report is None else found.report.verdict
    _result({**told, "verdict": verdict, "path": report}, lines(found), as_json)
    raise typer.Exit(found.exit_code)


@app.command()
def schema(
    what: Annotated[Schema, typer.Argument(metavar="config|policy|report", help="Of which kind of file.")],
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Print the JSON Schema of a kind of file."""
    if what is Schema.POLICY:
        from securefd.evaluation.policy import Policy

        _result(Policy.model_json_schema(), [], as_json=True)
    elif what is Schema.REPORT:
        from securefd.evaluation.report_json import schema as report_schema

        _result(report_schema(), [], as_json=True)
    else:
        from securefd.config import Config

        _result(Config.model_json_schema(), [], as_json=True)


@identity.command("new")
def identity_new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the other parties will call it.")],
    folder: KeyFolder = Path("identities"),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make an identity: DIR/NAME.key stays here, mode 0600, and DIR/NAME.pub is for the other parties."""
    from securefd.defenses.keys import create_identity

    made = create_identity(folder, name)
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    _result(
        {**_public_fields(made), "private_file": private, "public_file": public},
        [f"{name}  {made.fingerprint}", f"wrote {private} (keep it) and {public} (for the other parties)"],
        as_json,
    )


@identity.command("list")
def identity_list(
    folder: KeyFolder = Path("identities"),
    roster: Annotated[
        Path | None, typer.Option(metavar="ROSTER.TOML", help="Show what it pins first, in its order.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """List identities, their fingerprints, and whether their private keys are here and safe to use."""
    from securefd.defenses.rosters import list_identities, load_roster

    pinned = None if roster is None else load_roster(roster)
    listed = list_identities(folder, pinned)
    lines = _aligned([_identity_row(one, numbered=pinned is not None) for one in listed])
    problems = [f"{one.name}: {one.problem}" for one in listed if one.problem]
    total = [f"roster  {pinned.fingerprint}"] if pinned else []
    result = {
        "identities": [
            {"position": one.position, **_public_fields(one), "private": one.private, "problem": one.problem}
            for one in listed
        ],
        "roster_fingerprint": pinned.fingerprint if pinned else None,
    }
    _result(result, [*lines, *problems, *total] or [f"no identities in {folder}"], as_json)


@identity.command("pin")
def identity_pin(
    roster: Annotated[Path, typer.Argument(metavar="ROSTER.TOML", help="The roster; made if needed.")],
    public: Annotated[list[Path], typer.Argument(metavar="PUB...", help="Files NAME.pub of the parties.")],
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Add identities to a roster. It is sorted by key, so all who pin the same get the same fingerprint."""
    from securefd.defenses.keys import read_public
    from securefd.defenses.rosters import pin

    pinned, added = pin(roster, [read_public(path) for path in public])
    numbered = list(enumerate(pinned.identities))
    names = [one.name for one in added]
    result = {
        "path": roster,
        "added": names,
        "identities": [{"position": position, **_public_fields(one)} for position, one in numbered],
        "roster_fingerprint": pinned.fingerprint,
    }
    lines = [
        *_aligned([[str(position), one.name, one.fingerprint] for position, one in numbered]),
        f"added: {', '.join(names) or 'nothing, all were pinned before'}",
        f"roster  {pinned.fingerprint}",
        "compare the roster's fingerprint with every other party, by telephone or in person",
    ]
    _result(result, lines, as_json)


def _progress(quiet: bool) -> Progress:
    return Silent() if quiet else RichProgress()


def _result(result: Mapping[str, Any], lines: Iterable[str], as_json: bool) -> None:
    _print([json.dumps(_plain(result), indent=2, allow_nan=False)] if as_json else lines)


def _print(lines: Iterable[str]) -> None:
    try:
        for line in lines:
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read it has seen enough
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(COULD_NOT_RUN) from None


def _plain(value: object) -> Any:
    """Return ``value`` as JSON can hold it; a number that isn't finite becomes null."""
    from pydantic_core import to_jsonable_python

    return to_jsonable_python(value, inf_nan_mode="null", serialize_unknown=True)


def _table(result: Mapping[str, Any]) -> list[str]:
    rows = [row for key, value in result.items() for row in _rows(key, value)]
    width = max(len(key) for key, _ in rows)
    return [f"{key:{width}}  {text}" for key, text in rows]


def _rows(key: str, value: object) -> list[tuple[str, str]]:
    """A table inside takes a row for each key, numbers one row together, other lists a row for each entry."""
    if isinstance(value, Mapping):
        return [row for name, inner in value.items() for row in _rows(f"{key}.{name}", inner)]
    if isinstance(value, float):
        return [(key, f"{value:.4f}")]
    if not isinstance(value, list | tuple):
        return [(key, "none" if value is None else str(value))]
    if value and all(isinstance(entry, float) for entry in value):
        return [(key, " ".join(f"{entry:.4f}" for entry in value))]
    return [(key, str(entry)) for entry in value]


def _audit_lines(audit: Audit) -> list[str]:
    controls = [
        f"{control.kind} control, {control.attack}: "
        f"{'passed' if control.passed else 'FAILED'}, {control.measured}"
        for control in audit.controls
    ]
    return [*map(_outcome_line, audit.outcomes), *controls, f"judgement: {audit.judgement}"]


def _outcome_line(outcome: Outcome) -> str:
    from securefd.evaluation.findings import Skipped

    head = f"{outcome.subject}, {outcome.observer}, {outcome.attack}:"
    if isinstance(outcome, Skipped):
        return f"{head} SKIPPED ({outcome.reason})"
    low, high = outcome.auc_interval
    bound = "" if outcome.epsilon_bound is None else f", epsilon at least {outcome.epsilon_bound:.2f}"
    measured = f"AUC {outcome.auc:.3f} ({low:.3f} to {high:.3f}){bound}"
    return f"{head} {measured}, {outcome.judgement} ({outcome.reason})"


def _public_fields(one: PublicIdentity | Listed) -> dict[str, str | None]:
    key = None if one.key is None else one.key.hex()
    return {"name": one.name, "public_key": key, "fingerprint": one.fingerprint}


def _identity_row(one: Listed, *, numbered: bool) -> list[str]:
    states = {"usable": "private key here", "absent": "no private key here", "refused": "private key REFUSED"}
    position = ["-" if one.position is None else str(one.position)] if numbered else []
    return [*position, one.name, one.fingerprint or "no public identity", states[one.private]]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _sentence(error: Exception) -> str:
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, OSError) and error.filename is not None:
        return (
            f"{error.filename} can't be used ({error.strerror}); check the path, its permissions and the disk"
        )
    return str(error)


def _fail(sentence: str, code: int = COULD_NOT_RUN) -> int:
    print("securefd: " + " ".join(sentence.split()), file=sys.stderr)
    return code
