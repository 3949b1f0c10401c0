"""A shop's own features: found where the setting says, refused in one line, trained on, served."""

import json
import sys
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from features.aggregates import Count, IsNew
from features.catalogue import BUILT_IN, CATALOGUE, GROUPS, STARTER, Catalogue, amount, by_name
from features.define import Feature, days, features_digest
from features.errors import FeatureDefinitionError
from features.events import Order
from models.registry import Registry
from stream.cli import app
from stream.doctor import examine
from stream.explain_cli import Asked, _features
from stream.learn import Learnt, learn
from stream.own_features import OwnFeaturesError, catalogue_of
from stream.ports import Refused
from stream.settings import Settings
from stream.watch import why
from stream.worker import load_model
from tests.small_desk import Shop
from tests.small_shop import a_past, an_order

OWN = '''
from features import Count, Order, Rates, amounts_in, days, feature, same

RATES = Rates("2026-01", base="EUR", per_unit={"USD": "0.5"})
LARGE = 3

@feature(unit="0 or 1", between=(0, 1), missing="never")
def is_large(order: Order) -> float:
    """1 when the order is large, else 0."""
    return float(order.amount > LARGE * 1000)

@feature(unit="kilograms", between=(0, None), missing="the shop did not say")
def weight(order: Order) -> float | None:
    """What the parcel weighs."""
    return order.attributes.get("weight")

FEATURES = (is_large, weight, Count(over=days(3), where=same("device")), *amounts_in(RATES))
'''
NAMES = ["is_large", "weight", "orders_count_3d_same_device"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The shop's own file."""
    path = tmp_path / "shop.py"
    path.write_text(OWN)
    return path


def own(file: Path | str, name: str = "FEATURES") -> Catalogue:
    return catalogue_of(Settings(features=f"{file}:{name}"))


def refusal(setting: str) -> str:
    with pytest.raises(OwnFeaturesError) as refused:
        catalogue_of(Settings(features=setting))
    said = str(refused.value)
    assert "\n" not in said
    assert said.startswith(f"setting features: {setting}")
    return said


# ---------------------------------------------------------------------- where they are found


def test_a_file_adds_its_features_to_the_catalogue_as_a_group_of_their_own(file: Path) -> None:
    catalogue = own(file)

    assert list(catalogue.groups) == [*GROUPS, "own"]
    assert [each.name for each in catalogue.groups["own"]][:4] == [*NAMES, "amount_eur"]
    assert catalogue.by_name("weight").doc == "What the parcel weighs."
    assert catalogue.by_name("amount") is amount


def test_a_module_is_found_on_pythons_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "of_a_shop").mkdir()
    (tmp_path / "of_a_shop/declared.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)

    assert own("of_a_shop.declared").by_name("weight").unit == "kilograms"


def test_without_the_setting_there_is_the_catalogue_alone(file: Path) -> None:
    own(file)

    assert catalogue_of(Settings()) is BUILT_IN
    assert "own" not in BUILT_IN.groups
    with pytest.raises(FeatureDefinitionError, match="that the setting 'features' names"):
        by_name("weight")


def test_what_runs_is_what_the_digest_holds_however_fast_a_file_is_changed(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)  # as it is unless told
    order = an_order(amount=3500)
    (before,) = own(file).by_names(["is_large"])
    file.write_text(OWN.replace("* 1000", "* 2000"))  # as long as before, within one second
    (after,) = own(file).by_names(["is_large"])

    assert (before.value(order, None), after.value(order, None)) == (1.0, 0.0)
    assert "LARGE * 2000" in after.declaration
    assert features_digest([before]) != features_digest([after])


def test_the_place_of_a_file_is_no_part_of_the_digest(file: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.py"
    elsewhere.write_text(OWN.replace("LARGE = 3", "LARGE = 3  # pieces\n"))

    assert features_digest(own(file).own) == features_digest(own(elsewhere).own)


IS_X = '''
@feature(unit="0 or 1", between=(0, 1), missing="never")
def is_x(order: Order) -> float:
    """X."""
    {}

FEATURES = (is_x,)
'''
WRAPPED = """
import functools

def times(f):
    @functools.wraps(f)
    def inner(x):
        return 2 * f(x)
    return inner

@times
def n(x):
    return x
"""
FACTORY = "def at_least(least):\n    def inner(x):\n        return x >= least\n    return inner\n"


@pytest.mark.parametrize(
    ("before", "body", "change"),
    [
        (
            "MANY = 3\ndef is_many(x, most=MANY):\n    return x > most\n",
            "return float(is_many(order.amount))",
            ("MANY = 3", "MANY = 4"),
        ),
        (
            FACTORY + "one = at_least(3)\nother = at_least(10)\n",
            "return float(one(order.amount) + other(order.amount))",
            ("at_least(10)", "at_least(11)"),
        ),
        (
            "def f(x):\n    return x\ndef g(x):\n    return 2 * x\na, b, c = f, g, g\n",
            "return float(a(1) + 2 * b(2) + 3 * c(3))",
            ("a, b, c = f, g, g", "a, b, c = f, f, g"),
        ),
        (
            "MANY = 3\n",
            "return float(sum(1 for MANY in order.items) > MANY)",
            ("MANY = 3", "MANY = 4"),
        ),
    ],
    ids=["default", "two of one def", "another name", "same name inside"],
)
def test_whatever_changes_what_a_function_computes_changes_its_digest(
    tmp_path: Path, before: str, body: str, change: tuple[str, str]
) -> None:
    file = tmp_path / "shop.py"

    def digest(source: str) -> str:
        file.write_text(source)
        return features_digest(own(file).own)

    source = f"from features import Order, feature\n{before}{IS_X.format(body)}"
    assert digest(source) == digest("# the same\n" + source)
    assert digest(source) != digest(source.replace(*change))


@pytest.mark.parametrize(
    ("before", "body", "said"),
    [
        (
            WRAPPED,
            "return float(n(order.amount))",
            "'n' is wrapped by a decorator",
        ),
        ("SEEN = 0\n", "global SEEN; SEEN += 1; return SEEN", "feature 'is_x' changes 'SEEN'"),
        ("", "from a_shop import RATE; return RATE", "feature 'is_x' imports 'a_shop' while it runs"),
        ("", "import math, a_shop.rates; return 1.0", "feature 'is_x' imports 'a_shop.rates' while it runs"),
        (
            "",
            "return float(open('rates').read())",
            "feature 'is_x' names 'open', and no digest would hold what",
        ),
        ("", "return eval(order.country)", "feature 'is_x' names 'eval', and no digest would hold what"),
        (
            "K = 3\n",
            "class Limit: k = K\n    return Limit.k",
            "feature 'is_x' defines a class; write a function",
        ),
        ("", "order.amount = 7; return 1.0", "feature 'is_x' changes order.amount"),
        ("", "order.attributes['a'] = 7; return 1.0", "feature 'is_x' changes order.attributes['a']"),
        ("", "del order.card; return 1.0", "feature 'is_x' changes order.card"),
    ],
)
def test_a_function_that_changes_something_or_hides_what_it_computes_is_refused(
    tmp_path: Path, before: str, body: str, said: str
) -> None:
    file = tmp_path / "shop.py"
    file.write_text(f"from features import Order, feature\n{before}{IS_X.format(body)}")

    assert said in refusal(f"{file}:FEATURES")


def test_a_file_takes_no_other_modules_place(tmp_path: Path) -> None:
    before = sys.modules["random"]
    (tmp_path / "random.py").write_text(OWN)

    own(tmp_path / "random.py")

    assert sys.modules["random"] is before


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("shop.py", "should be a module or a file and a name in it; write shop.features:FEATURES or "),
        ("a shop:FEATURES", "'a shop' is neither a module such as shop.features nor a file that ends in .py"),
        ("no_such.shop:FEATURES", "there is no module 'no_such'; put its folder into PYTHONPATH, or name "),
        ("no/such/shop.py:FEATURES", "can't read no/such/shop.py: No such file or directory; name a file "),
        ("/dev/zero:FEATURES", "/dev/zero is not Python's source; name a file that ends in .py"),
        ("features.rates:RATES", "there is no RATES; write RATES = (...) there"),
        ("a\0b.py:FEATURES", "embedded null byte; name a file that exists and this user may read"),
        (
            "features.catalogue:BUILT_IN",
            "BUILT_IN should be a tuple of features and is of the class Cat",
        ),
    ],
)
def test_a_place_where_nothing_is_declared_is_refused(setting: str, said: str) -> None:
    assert said in refusal(setting)


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ("OTHERS = (amount,)", "there is no FEATURES; it has OTHERS; name one"),
        ("FEATURES = ()", "FEATURES is empty; put features into it, or unset the setting"),
        (
            "FEATURES = amount",
            "FEATURES should be a tuple of features and is of the class OrderAmount; ",
        ),
        (
            "FEATURES = [amount]",
            "number 1 has the name 'amount', and the catalogue has a feature of that name ",
        ),
        (
            "FEATURES = (Count(over=days(3)), Count(over=days(3)))",
            "number 2 has the name 'orders_count_3d', and one before it is a feature of that name already",
        ),
        ("def velocity(order): 'V.'", "there is no FEATURES; write FEATURES = (...) there"),
        ("FEATURES = (Count,)", "number 1 should be a declared feature and is the class Count; write what "),
        ("FEATURES = ('amount',)", "is of the class str; declare it with @feature or the grammar's words"),
        ("FEATURES = ((Count(over=days(3)),),)", "is a tuple; write a * before it, as in "),
        (
            "FEATURES = (lambda order: 1.0,)",
            "number 1 should be a declared feature and is a function; write ",
        ),
        (
            "class Unsure:\n    def __bool__(self): raise ValueError\nARRAY = Unsure()",
            "there is no FEATURES; write FEATURES = (...) there",
        ),
        ("\nimport no_such_thing", "shop.py, line 5: ModuleNotFoundError: No module named 'no_such_thing'; "),
        ("\nraise SystemExit(3)", "shop.py, line 5: SystemExit: 3; mend it there"),
        ("\ndef f(:", "shop.py, line 5: invalid syntax; mend it there"),
        ("Count(over=days(0))", "shop.py, line 4: "),
    ],
)
def test_a_file_that_declares_something_else_is_refused(tmp_path: Path, declared: str, said: str) -> None:
    file = tmp_path / "shop.py"
    file.write_text(
        "from features.catalogue import amount\nfrom features.aggregates import *\n"
        f"from features.define import *\n{declared}\n"
    )

    assert said in refusal(f"{file}:FEATURES")


def test_a_function_named_as_a_group_is_refused_because_training_could_not_tell_them_apart(
    tmp_path: Path,
) -> None:
    file = tmp_path / "shop.py"
    file.write_text(OWN.replace("weight(", "velocity(").replace("weight,", "velocity,"))

    assert "number 2 has the name 'velocity', and there is a group of that name already" in refusal(
        f"{file}:FEATURES"
    )


def test_code_that_no_digest_would_hold_is_no_feature() -> None:
    @dataclass(frozen=True)
    class Doubled(Count):
        def value(self, order: Order, history: Any) -> float | None:
            return 2.0

    with pytest.raises(FeatureDefinitionError, match="number 1 should be a declared feature and is of the"):
        Catalogue(own=(Doubled(over=days(5)),))


def test_a_function_that_fails_names_itself_and_the_order_and_not_what_the_order_says() -> None:
    (tried,) = Catalogue(own=(_fails(),)).own

    with pytest.raises(ValueError, match="'percent' failed on order 'o3' with ValueError; answer a") as said:
        tried.value(an_order(3, attributes={"code": "ana@shop.example"}), None)

    assert "ana" not in str(said.value)


def _fails() -> Feature:
    from features.define import feature  # noqa: PLC0415 - beside what it declares

    @feature(unit="share", between=(0, 1), missing="never")
    def percent(order: Order) -> float:
        """What the code says."""
        return float(order.attributes["code"])

    return percent


# ---------------------------------------------------------------------- which are learnt from


def names(what: str, catalogue: Catalogue = BUILT_IN) -> list[str]:
    return [each.name for each in catalogue.chosen(what)]


def test_a_person_chooses_features_by_sets_groups_and_names_in_that_order(file: Path) -> None:
    catalogue = own(file)

    assert catalogue.chosen("starter") == STARTER
    assert catalogue.chosen("habit") == GROUPS["habit"]
    assert catalogue.chosen("served") == (*BUILT_IN.served, *catalogue.own)
    assert names("own", catalogue)[:3] == NAMES
    assert names("weight, card_is_new,amount", catalogue) == ["weight", "card_is_new", "amount"]


def test_a_feature_that_is_asked_for_twice_counts_where_it_came_first() -> None:
    assert names("is_weekend,habit")[:2] == ["is_weekend", "hour_of_day"]
    assert len(names("is_weekend,habit")) == len(GROUPS["habit"])


@pytest.mark.parametrize(
    ("what", "near"),
    [
        ("velocty", "'velocty'; did you mean 'velocity'?"),
        ("amount,card_is_knew", "'card_is_knew'; did you mean 'card_is_new'?"),
        ("zzzz", "'zzzz'; 'fraudstream features' lists them"),
        ("own", "'own'; 'fraudstream features' lists them (a shop's own are those that the setting "),
        ("", "''; 'fraudstream features' lists them"),
    ],
)
def test_an_unknown_choice_is_refused_with_the_nearest(what: str, near: str) -> None:
    with pytest.raises(FeatureDefinitionError) as refused:
        BUILT_IN.chosen(what)

    assert f"there is no feature or group {near}" in str(refused.value)


def test_no_feature_of_the_catalogue_has_a_groups_name() -> None:
    assert not {each.name for each in CATALOGUE} & {*GROUPS, "own", "served", "starter"}


# ---------------------------------------------------------------------- trained, published, served


def learnt(settings: Settings, features: str) -> Learnt:
    return learn(
        settings, a_past(400), name="risk", features=features, predictor="logistic_regression", promote=True
    )


def at_home(tmp_path: Path, file: Path | None) -> Settings:
    return Settings(home=tmp_path, model="risk", features=None if file is None else f"{file}:FEATURES")


def test_a_model_of_own_features_is_served_with_their_values(tmp_path: Path, file: Path) -> None:
    settings = at_home(tmp_path, file)
    learnt(settings, "own,amount")
    scorer, _ = load_model(settings)
    shop = Shop(scorer=scorer)

    (first,) = shop.decide(an_order(0, amount=4000, currency="USD", device_id="d1"))
    (second,) = shop.decide(
        an_order(1, amount=2000, device_id="d1", attributes={"weight": 2.5, "colour": "red"})
    )

    assert {name: first.features[name] for name in (*NAMES, "amount_eur", "amount")} == {
        "is_large": 1, "weight": None, "orders_count_3d_same_device": 0, "amount_eur": 20, "amount": 40,
    }  # fmt: skip
    assert {name: second.features[name] for name in (*NAMES, "amount_eur", "amount_eur_sum_30d")} == {
        "is_large": 0, "weight": 2.5, "orders_count_3d_same_device": 1, "amount_eur": 20,
        "amount_eur_sum_30d": 20,
    }  # fmt: skip
    assert "weight" in first.imputed
    assert first.p_fraud is not None


def test_a_model_is_trained_on_exactly_what_was_asked_for_in_that_order(tmp_path: Path, file: Path) -> None:
    settings = at_home(tmp_path, file)

    trained = learnt(settings, "weight,device_is_new,amount_eur,is_large")

    asked = ("weight", "device_is_new", "amount_eur", "is_large")
    assert trained.features == asked
    manifest = Registry(tmp_path / "models").manifest("risk", trained.version)
    assert tuple(each.name for each in manifest.features) == asked


def test_no_file_of_a_model_names_code(tmp_path: Path, file: Path) -> None:
    place = learnt(at_home(tmp_path, file), "own").place

    written = b"".join(each.read_bytes() for each in Path(place).iterdir())

    assert b"weight" in written
    assert b"shop.py" not in written
    assert b":FEATURES" not in written


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ("LARGE = 3", "LARGE = 4"),
            r"'is_large' declared as 'LARGE = 3', and here it is 'LARGE = 4', so its ",
        ),
        (("days(3)", "days(4)"), "'orders_count_3d_same_device', and there is no feature "),
        (
            ('"0.5"', '"0.55"'),
            (
                r"'amount_eur' declared as '…\S*\('2026-01', base=EUR, USD: 0.5\)\)', and here it is "
                r"'…\S*\('2026-01', base=EUR, USD: 0.55\)\)', so its digest differs; train again or go back "
            ),
        ),
    ],
)
def test_a_worker_refuses_a_model_whose_own_features_have_changed(
    tmp_path: Path, file: Path, change: tuple[str, str], said: str
) -> None:
    settings = at_home(tmp_path, file)
    learnt(settings, "own")
    file.write_text(OWN.replace(*change))

    with pytest.raises(Refused, match=f"trained on feature {said}") as refused:
        load_model(settings)

    assert "\n" not in str(refused.value)
    file.write_text(OWN)
    load_model(settings)


def test_a_worker_that_was_not_told_of_the_file_refuses_and_says_so(tmp_path: Path, file: Path) -> None:
    learnt(at_home(tmp_path, file), "own")

    with pytest.raises(Refused, match=r"no feature 'is_large'.* \(a shop's own .* the setting 'features' "):
        load_model(at_home(tmp_path, None))


def test_a_reason_of_an_own_feature_is_told_in_its_unit(tmp_path: Path, file: Path) -> None:
    settings = at_home(tmp_path, file)
    learnt(settings, "is_large")
    scorer, _ = load_model(settings)

    (decision,) = Shop(scorer=scorer).decide(an_order(amount=9000))

    assert why(decision, own(file).by_name) == [("Whether the order is large", "yes")]
    assert why(decision) == [("Whether the order is large", "1")], "who was not told knows no unit"


def test_an_order_is_explained_by_the_own_features_of_the_model_in_service(
    tmp_path: Path, file: Path
) -> None:
    settings = at_home(tmp_path, file)
    learnt(settings, "own")

    def explained(*names: str, group: str | None = None) -> list[str]:
        asked = Asked(None, None, names, group, None, 5, as_json=False)
        shown, _ = _features(settings, asked)
        return [each.name for each in shown]

    assert explained() == explained(group="own") == [each.name for each in own(file).own]
    assert explained("weight") == ["weight"]


def test_the_doctor_says_that_the_file_has_changed_and_not_that_somebody_tampered(
    tmp_path: Path, file: Path
) -> None:
    settings = at_home(tmp_path, file)
    learnt(settings, "own")

    def found() -> tuple[str, str]:
        (model,) = islice((each for each in examine(settings) if each.check == "model"), 1)
        return model.found, model.do

    assert "is sound" in found()[0]
    file.write_text(OWN.replace("LARGE = 3", "LARGE = 4"))
    assert "'LARGE = 4', so its digest differs; train again" in found()[0]
    assert found()[1] == "do what it says"
    file.unlink()
    assert found()[0].startswith(f"setting features: {file}:FEATURES: can't read {file}: No such file")
    assert found()[1] == "do what it says"


# ---------------------------------------------------------------------- on the command line


def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *arguments: str) -> Any:
    monkeypatch.setenv("FRAUDSTREAM_HOME", str(tmp_path))
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, arguments)


def test_own_features_are_listed_as_a_group(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAUDSTREAM_FEATURES", f"{file}:FEATURES")

    listed = command(monkeypatch, tmp_path, "features", "--json").stdout.splitlines()[len(CATALOGUE) :]
    alone = command(monkeypatch, tmp_path, "features", "--group", "own", "--json").stdout.splitlines()

    assert listed == alone
    assert [json.loads(line)["name"] for line in alone][:3] == NAMES
    assert {json.loads(line)["group"] for line in alone} == {"own"}


def test_what_a_file_prints_is_not_taken_for_the_list(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(OWN + "\nprint('read')\n")
    monkeypatch.setenv("FRAUDSTREAM_FEATURES", f"{file}:FEATURES")

    listed = command(monkeypatch, tmp_path, "features", "--group", "own", "--json")

    assert [json.loads(line)["name"] for line in listed.stdout.splitlines()][:3] == NAMES
    assert listed.stderr == "read\n"


def test_own_features_are_found_through_the_settings_file(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "shop.toml"
    config.write_text(f'features = "{file}:FEATURES"\n')

    listed = command(monkeypatch, tmp_path, "--config", str(config), "features", "--group", "own")

    assert "kilograms" in listed.stdout


@pytest.mark.parametrize("arguments", [("features",), ("train", "past.jsonl")])
def test_a_file_that_is_not_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("FRAUDSTREAM_FEATURES", "nowhere.py:FEATURES")

    result = command(monkeypatch, tmp_path, *arguments)

    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(
        "fraudstream: setting features: nowhere.py:FEATURES: can't read nowhere.py: No such"
    )


def test_training_on_an_unknown_feature_is_refused_before_the_past_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = command(monkeypatch, tmp_path, "train", "nowhere.jsonl", "--features", "starter,velocty")

    assert result.exit_code == 1
    assert result.stderr.startswith(
        "fraudstream: there is no feature or group 'velocty'; did you mean 'velocity'?"
    )


def test_training_says_which_features_it_learnt_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    past = tmp_path / "past.jsonl"
    past.write_text(
        "".join(
            json.dumps(order.model_dump(mode="json", exclude_defaults=True) | {"is_fraud": is_fraud}) + "\n"
            for order, is_fraud in a_past(200)
        )
    )
    arguments = ("train", str(past), "--features", "amount,novelty", "--predictor", "logistic_regression")

    told = command(monkeypatch, tmp_path, *arguments)
    as_json = command(monkeypatch, tmp_path, *arguments, "--json")

    asked = ["amount", *(each.name for each in GROUPS["novelty"])]
    assert f"  {len(asked)} features: amount,novelty\n" in told.stdout
    assert json.loads(as_json.stdout)["features"] == asked
    assert asked[1] == IsNew("device").name
