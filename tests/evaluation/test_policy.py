"""Reading a policy: strictly, with one sentence for whatever is wrong, and a hash of what it says."""

import tomllib
from pathlib import Path

import pytest
import tomli_w

from securefd.errors import ConfigError
from securefd.evaluation.policy import TABLES, Policy, load_policy, parse_policy
from securefd.evaluation.policy_template import POLICY_TEMPLATE

RULE = """
[[privacy]]
observers = ["server", "peer"]
unit = "record"
relation = "add-or-remove"
epsilon = 8
delta = 1e-5
"""
SMALL = f'name = "small"\n{RULE}'


def test_the_template_shows_every_key_and_loads_with_all_of_them():
    everything = "\n".join(
        line[2:] if line.startswith("# ") and " = " in line.split("#")[1] else line
        for line in POLICY_TEMPLATE.splitlines()
    )
    for text in (POLICY_TEMPLATE, everything):
        parse_policy(text)
    tables = tomllib.loads(everything)
    for path, table in TABLES.items():
        here = tables
        for name in path:
            here = here[name][0] if isinstance(here[name], list) else here[name]
        assert set(here) == set(table.model_fields), path


def test_a_policy_reads_as_it_is_written():
    policy = parse_policy(SMALL)
    (rule,) = policy.privacy
    assert rule.observers == ("server", "peer")
    assert (rule.unit, rule.relation, rule.epsilon, rule.delta) == ("record", "add-or-remove", 8.0, 1e-5)
    assert (policy.claims, policy.attacks, policy.audits, policy.dependencies) == ((), (), (), {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "name is required"),
        ('name = "x"', "must have at least one rule"),
        ('name = "x"\n[federation]\n[accuracy]\n[dependencies]', "must have at least one rule"),
        (RULE, "name is required"),
        (SMALL.replace("small", ""), "name must have a length of at least 1"),
        (SMALL.replace("small", "a\\u0007b"), "control characters"),
        (f"{SMALL}\n[[privcy]]\nepsilon = 1", "privcy isn't a known key"),
        (f"{SMALL}\n[acuracy]\nstudent = 0.9", "did you mean accuracy"),
        (f"{SMALL}\nepsilom = 2", "privacy[0].epsilom isn't a known key"),
        (f"{SMALL}\n[accuracy]\nstudnet = 0.9", "did you mean accuracy.student"),
        (SMALL.replace("= 8", "= nan"), "privacy[0].epsilon must be a finite number"),
        (SMALL.replace("= 8", "= inf"), "privacy[0].epsilon must be a finite number"),
        (SMALL.replace("= 8", "= -1"), "privacy[0].epsilon must be at least 0"),
        (SMALL.replace("= 8", "= true"), "privacy[0].epsilon must be a number"),
        (SMALL.replace("= 8", '= "8"'), "privacy[0].epsilon must be a number"),
        (SMALL.replace("1e-5", "1.0"), "privacy[0].delta must be less than 1"),
        (SMALL.replace("1e-5", "nan"), "privacy[0].delta must be a finite number"),
        (SMALL.replace('relation = "add-or-remove"', ""), "privacy[0].relation is required"),
        (SMALL.replace("add-or-remove", "either"), "privacy[0].relation must be one of"),
        (SMALL.replace('"peer"', '"pear"'), "did you mean peer"),
        (SMALL.replace('["server", "peer"]', "[]"), "privacy[0].observers must have a length of at least 1"),
        (SMALL.replace('["server", "peer"]', '"server"'), "privacy[0].observers must be a list"),
        (SMALL.replace("[[privacy]]", "[privacy]"), "privacy must be a list"),
        ('name = "x"\n[accuracy]\nstudent = nan', "accuracy.student must be a finite number"),
        ('name = "x"\n[accuracy]\nstudent = 90', "accuracy.student must be at most 1"),
        ('name = "x"\n[federation]\nclients = 2.5', "federation.clients must be a whole number"),
        ('name = "x"\n[federation]\nthreshold = 1', "federation.threshold must be at least 2"),
        ('name = "x"\n[federation]\nsealing = []', "federation.sealing must have a length of at least 1"),
        ('name = "x"\n[federation]\nsealing = ["masks"]', "did you mean masked"),
        ('name = "x"\n[[attacks]]\nobservers = ["server"]\nfpr = 0.1\ntpr = nan', "finite"),
        ('name = "x"\n[[attacks]]\nobservers = ["server"]\nfpr = 0.1\ntpr = 0.1', "guessing has as much"),
        ('name = "x"\n[[attacks]]\nobservers = ["server"]\nfpr = 0.1\ntpr = 1.0', "must be less than 1"),
        (
            'name = "x"\n[[audits]]\nobservers = ["server"]\npower = 0',
            "audits[0].power must be greater than 0",
        ),
        ('name = "x"\n[[audits]]\nobservers = ["server"]\nsubjects = ["it"]', "this run, the recipe"),
        ('name = "x"\n[dependencies]\ntorch = "new"', "dependencies.torch must be a version"),
        ('name = "x"\n[dependencies]\ntorch = 2.6', "dependencies.torch must be a text"),
        ('name = "x"\n[dependencies]\nscikit-learn = "1"\nscikit_learn = "2"', "each package once"),
        ("name = ", "isn't valid TOML"),
    ],
)
def test_what_is_wrong_is_one_sentence_that_names_it(text, said):
    with pytest.raises(ConfigError) as error:
        parse_policy(text, "policy.toml")
    assert said in str(error.value)
    assert str(error.value).startswith("policy.toml")
    assert "\n" not in str(error.value)


def test_a_file_that_is_none(tmp_path: Path):
    with pytest.raises(ConfigError, match="doesn't exist; `securefd init DIR` writes a policy"):
        load_policy(tmp_path / "policy.toml")
    (tmp_path / "latin").write_bytes(b'name = "\xe9"')
    with pytest.raises(ConfigError, match="latin isn't UTF-8 text in line 1"):
        load_policy(tmp_path / "latin")


class TestHash:
    def test_it_is_of_the_content_alone(self):
        tables = tomllib.loads(SMALL)
        turned = {name: tables[name] for name in reversed(tables)}
        turned["privacy"] = [dict(reversed(rule.items())) for rule in tables["privacy"]]
        for same in (
            f"# a comment\n{SMALL}",
            SMALL.replace("= 8", "= 8.0"),
            SMALL.replace("1e-5", "0.00001"),
            f"{SMALL}\n[dependencies]\n[federation]\n",
            f'description = ""\n{SMALL}',
            tomli_w.dumps(turned),
        ):
            assert parse_policy(same).sha256 == parse_policy(SMALL).sha256

    @pytest.mark.parametrize(
        "change",
        [
            ("= 8", "= 8.000000000000002"),
            ("1e-5", "1.1e-5"),
            ("record", "client"),
            ("add-or-remove", "replace-one"),
            ('"server", "peer"', '"server"'),
            ("small", "Small"),
            (RULE, f"{RULE}{RULE}"),
            (RULE, f"{RULE}[federation]\nclients = 1\n"),
        ],
    )
    def test_any_other_content_has_another(self, change):
        assert parse_policy(SMALL.replace(*change)).sha256 != parse_policy(SMALL).sha256

    def test_it_stays_what_it_is(self):
        """A hash in a signed report must be found again by a later version."""
        assert (
            parse_policy(SMALL).sha256 == "ab6e9495f7c181dc35049cdd44500b84bfd87617264609619f44db8de90d489b"
        )


def test_its_schema_is_closed():
    schema = Policy.model_json_schema()
    assert schema["additionalProperties"] is False
    assert all(table["additionalProperties"] is False for table in schema["$defs"].values())
