"""Writes the test vectors of the masked protocol beside itself, or into the folder that is given.

Nothing here, or in what it imports, is of securefd: see `rounds` and `primitives`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from primitives import aes_ctr, pack, sha256, split
from rounds import Example, derive, hash_of, made, play, statement, words

COMPLETE: dict[str, Any] = {
    "n_clients": 5,
    "threshold": 3,
    "colluders": 0,
    "honest_minimum": 2,
    "degree": 4,
    "share_threshold": 2,
    "checked": 3,
    "size": 11,
    "leaves": {"upload": [2], "unmask": [3]},
}
SPARSE = Example(
    name="sparse",
    about="12 clients, each with 5 holders; one leaves at every stage.",
    n_clients=12,
    threshold=7,
    colluders=1,
    honest_minimum=3,
    degree=5,
    share_threshold=2,
    checked=4,
    bits=10,
    noise_deviation=0.0,
    size=3,
    round=2**32 - 1,
    leaves={"advertise": [5], "share": [0], "upload": [9], "confirm": [11], "unmask": [1]},
)


def complete(ring_bits: int, bits: int, noise_deviation: float) -> Example:
    noise = "noise" if noise_deviation else "no-noise"
    about = f"5 clients, a complete graph, a ring of {ring_bits} bits, {noise.replace('-', ' ')}. "
    about += "Client 2 leaves before it uploads, client 3 before it reveals."
    name = f"complete-{ring_bits}-{noise}"
    return Example(name=name, about=about, bits=bits, noise_deviation=noise_deviation, round=bits, **COMPLETE)


EXAMPLES = (
    *(complete(ring, bits, 0.0) for ring, bits in ((8, 5), (16, 12), (32, 24), (64, 32))),
    *(
        complete(ring, bits, deviation)
        for ring, bits, deviation in ((8, 5, 1.0), (16, 12, 50.5), (32, 24, 1e6 / 3), (64, 32, 2.0**40))
    ),
    SPARSE,
)


def derivations() -> dict[str, Any]:
    """Each derivation by itself, at the ends of what it may be given."""
    secret, session, agreement = made("secret"), made("session")[:16], made("agreement")
    keys = [
        {
            "label": label,
            "round": number,
            "positions": [one, other],
            "key": derive(label, secret, one, other, session=session, number=number, agreement=agreement),
        }
        for number in (0, 1, 2**32 - 1)
        for label, one, other in (
            ("pair", 0, 1),
            ("pair", 258, 65535),
            ("self", 0, 0),
            ("self", 65535, 65535),
            ("box", 258, 65535),
            ("box", 65535, 258),
        )
    ]
    groups = ([0], list(range(300)), [1, 258, 65535, 2**32 - 1])
    tags = [
        {
            "round": number,
            "positions": [one, other],
            "sharers": sharers,
            "sharers_hash": hash_of(sharers),
            "tag": derive(
                "tag",
                secret,
                one,
                other,
                session=session,
                number=number,
                agreement=agreement,
                more=hash_of(sharers),
                size=16,
            ),
        }
        for number in (0, 2**32 - 1)
        for one, other in ((258, 65535), (65535, 258))
        for sharers in groups
    ]
    places = (
        (session, 0, "advertise", 0, agreement, b""),
        (session * 4, 2**32 - 1, "unmask", 65535, bytes(32), bytes(1000)),
        (session, 258, "", 772, agreement, b"body"),
    )
    names = ("session", "round", "stage", "sender", "roster", "body")
    long = 600_000
    coefficients = [made("coefficient", power) for power in range(1, 7)]
    return {
        "about": "Each derivation by itself. Coefficients are of x, x**2, ...; a share is at x = holder + 1.",
        "secret": secret,
        "session": session,
        "agreement": agreement,
        "keys": keys,
        "tags": tags,
        "statements": [
            dict(zip(names, place, strict=True)) | {"statement": statement(*place)} for place in places
        ],
        "keystreams": [
            {
                "key": secret,
                "ring_bits": bits,
                "first": words(aes_ctr(secret, 0, 40), bits),
                "bytes": long,
                "sha256": sha256(aes_ctr(secret, 0, long)),
            }
            for bits in (8, 16, 32, 64)
        ],
        "sharings": [
            {
                "secret": secret,
                "threshold": threshold,
                "coefficients": coefficients[: threshold - 1],
                "holders": holders,
                "shares": [split(secret, coefficients[: threshold - 1], holder) for holder in holders],
            }
            for threshold, holders in ((1, [0, 9]), (2, [0, 1, 2]), (7, [0, 3, 4, 11, 300, 65535, 2**32 - 1]))
        ],
        "encodings": encodings(),
    }


def encodings() -> list[dict[str, Any]]:
    """Messages whose parts need longer heads than those of the rounds."""
    short: tuple[tuple[str, list[Any]], ...] = (
        ("survivors", [[*range(20), 127, 128, 255, 256, 65535], []]),
        ("roster", [[b"", bytes(255), bytes(256)] * 6]),
        ("upload", [b"", [made("tag", k)[:16] for k in range(17)]]),
    )
    return [
        {"message": name, "fields": fields, "encoded": pack((name, *fields))} for name, fields in short
    ] + [
        {"message": "upload", "zeros": count, "sha256": sha256(pack(("upload", bytes(count), [])))}
        for count in (255, 256, 65535, 65536)
    ]


def to_json(value: Any) -> Any:
    """Bytes as hexadecimal text."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {name: to_json(one) for name, one in value.items()}
    return [to_json(one) for one in value] if isinstance(value, list | tuple) else value


def main(folder: Path) -> None:
    found = {example.name: play(example) for example in EXAMPLES} | {"derivations": derivations()}
    for name, value in found.items():
        (folder / f"{name}.json").write_text(json.dumps(to_json(value), indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
