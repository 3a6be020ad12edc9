"""What an observer received, as it came: on disk once a round is over, and nothing else."""

import stat
from pathlib import Path

import numpy as np
import pytest

import securefd
from securefd.codec import Codec
from securefd.config import Config, parse_config
from securefd.errors import RunError
from securefd.messages import Answer, Broadcast, Query, Signed, decode
from securefd.result import Run
from securefd.transcript import PEER, Received, Transcript, read_transcript, transcript_path

SMALL = """
name = "small"
seed = 3
data = {{ source = "digits", public = 20, test = 20 }}
clients = [{{ count = {count}, model = "logistic" }}]
method = {{ name = "{method}", rounds = 2, local_steps = 2, digest_steps = 2, queries = 8 }}
student = {{ model = "logistic", steps = 2 }}
[sealing]
{sealing}
"""


def config(sealing: str, method: str = "dsfl", count: int = 3) -> Config:
    return parse_config(SMALL.format(sealing=sealing, method=method, count=count))


def kept(run: Run, number: int = 0) -> dict[tuple[str, str], list[Received]]:
    found: dict[tuple[str, str], list[Received]] = {}
    for each in run.messages(number):
        found.setdefault((each.receiver, each.stage), []).append(each)
    return found


def test_plain(tmp_path: Path) -> None:
    run = securefd.run(config('kind = "plain"', "fedct"), tmp_path / "run")
    seen = kept(run)
    assert set(seen) == {("server", "answer"), ("client", "query"), ("client", "broadcast")}
    assert [each.client for each in seen["server", "answer"]] == [0, 1, 2]
    (query,) = seen["client", "query"]
    assert query.client == PEER
    asked = decode(query.message, Query).positions()
    view = run.view("server").rounds[0]
    assert view.answers is not None
    assert asked.tolist() == view.queries.tolist()
    none = np.full(80, -1, dtype=np.int64)
    for each, own in zip(seen["server", "answer"], view.answers, strict=True):
        values = decode(each.message, Answer).values
        levels = Codec(n_classes=10, bits=1).decode(values, none, 80)
        assert np.array_equal(levels.reshape(8, 10), own)
    assert len(decode(seen["client", "broadcast"][0].message, Broadcast).body) > 0


@pytest.mark.parametrize("kind", ["masked", "homomorphic", "masked+homomorphic"])
def test_sealed(tmp_path: Path, kind: str) -> None:
    run = securefd.run(config(f'kind = "{kind}"'), tmp_path / "run")
    for number in range(2):
        seen = kept(run, number)
        assert len(seen["server", "upload"]) == 3
        assert decode(seen["server", "upload"][1].message, Signed).sender == 1
        assert {each.client for (to, _), group in seen.items() if to == "client" for each in group} == {PEER}
        assert (("keyholder", "sum") in seen) == ("homomorphic" in kind)
        assert sum(len(each.message) for (to, _), g in seen.items() for each in g if to == "keyholder") == (
            len(seen["keyholder", "sum"][0].message) if "homomorphic" in kind else 0
        )


def test_groups_are_told_by_their_own_clients(tmp_path: Path) -> None:
    run = securefd.run(config('kind = "masked"\ngroups = 3', "median", 9), tmp_path / "run")
    uploads = kept(run)["server", "upload"]
    assert sorted(each.client for each in uploads) == list(range(9))


def test_it_is_private_and_whole_or_not_there(tmp_path: Path) -> None:
    path = transcript_path(tmp_path, 0)
    path.parent.mkdir()

    def interrupted() -> None:
        with Transcript(path) as transcript:
            transcript.keep("server", 0, "answer", b"1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(path.parent.iterdir())
    with Transcript(path) as transcript:
        transcript.keep("server", 0, "answer", b"1")
        transcript.keep("client", PEER + 1, "roster", b"2")
        transcript.keep("keyholder", -1, "sum", b"3")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(read_transcript(path)) == [
        Received("server", 0, "answer", b"1"),
        Received("keyholder", -1, "sum", b"3"),
    ]
    content = path.read_bytes()
    for bad in (content[:-1], content[:3], content + b"\0", b"\0\0\0\x01\xc1"):
        path.write_bytes(bad)
        with pytest.raises(RunError, match="restore it"):
            list(read_transcript(path))
    with pytest.raises(RunError, match="can't be written"), Transcript(tmp_path / "nowhere" / "x"):
        pass
