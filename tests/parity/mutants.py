"""The mistakes that the tests of features and of the road must find: each changes a few words of one file.

    python tests/parity/mutants.py            # all of them
    python tests/parity/mutants.py label      # those so named
    python tests/parity/mutants.py --record   # and keep the figures in tests/bench/RESULTS.md

A mutant is named by the mistake it makes. Its patches must each match the source exactly once, so that a
change of the source that hides one is noticed at once. It is put into a copy of the repository, where the
test that has to catch it is run; first without any mistake, which it has to pass.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    # this folder's modules must not stand in for others
    sys.path[0] = str(Path(__file__).parents[2])

from tests.bench.results import record

ROOT = Path(__file__).parents[2]
PARITY = "tests/parity/test_parity.py::"
ALL_WAYS = PARITY + "test_worker_replay_and_oracle_agree_about_every_feature"
SHORT_ROWS = PARITY + "test_what_a_short_row_says_is_exact_is_exact"
DESK = PARITY + "test_the_desk_of_a_worker_computes_what_the_oracle_says"
WINDOW = PARITY + "test_a_window_begins_at_its_exact_instant_and_ends_before_the_order"
LABELS = PARITY + "test_a_window_that_waits_for_labels_ends_where_they_are_known"
TAKEN_BACK = PARITY + "test_what_was_taken_back_is_not_known_any_more_and_of_two_at_once_the_yes_counts"
SENT_TWICE = PARITY + "test_a_statement_sent_twice_counts_once_and_refunds_in_parts_add_up"
ONE_MICROSECOND = PARITY + "test_orders_of_one_microsecond_are_all_counted_when_they_are_folded"
LARGEST = PARITY + "test_no_bit_is_lost_in_sums_and_squares_of_the_largest_amounts"
FUTURE_TILES = "tests/unit/test_features_history.py::test_an_order_sees_no_tile_that_ends_after_it"
STALE = "tests/unit/test_features_history.py::test_a_history_of_a_row_that_changed_since_refuses_to_answer"
TOGETHER = "tests/unit/test_features_questions.py::test_what_is_asked_together_is_answered_as_it_is_alone"
QUESTIONS = "tests/unit/test_features_questions.py::"
COUNTED = QUESTIONS + "test_a_condition_counts_by_itself_what_its_mask_counts"
WRONG_ANSWERS = QUESTIONS + "test_a_plan_says_which_function_of_the_order_answers_no_number"
NO_FLOAT = QUESTIONS + "test_what_no_float_holds_exactly_is_left_to_integers"
HALF_WAY = QUESTIONS + "test_a_spread_half_way_between_two_floats_is_rounded_as_python_rounds_it"
CARRY = "tests/unit/test_features_questions.py::test_a_sum_that_outgrows_64_bits_is_exact"
REPLAY = "tests/unit/test_features_replay.py::"
MOVES = REPLAY + "test_what_became_of_an_order_goes_with_it_to_another_customer_and_device"
NEWEST = REPLAY + "test_what_became_of_an_order_is_of_the_time_and_amount_that_the_newest_revision_says"
ONE_LOSS = REPLAY + "test_one_fraud_of_which_a_warning_and_a_chargeback_come_is_one_loss"
WAITS = REPLAY + "test_what_is_said_before_a_test_order_waits_for_the_order_that_is_none"
REVISIONS = "tests/unit/test_features_revisions.py::"
OLDER_REVISION = REVISIONS + "test_a_revision_that_comes_after_a_newer_one_changes_nothing"
SUPERSEDES = (
    REVISIONS + "test_a_superseding_outcome_takes_the_place_of_the_one_it_names_whichever_comes_first"
)
STAYS_SO = REVISIONS + "test_what_was_superseded_stays_so_when_its_successor_is_superseded"
ITSELF = REVISIONS + "test_an_outcome_supersedes_neither_itself_nor_one_that_has_no_name"
TWICE = REVISIONS + "test_the_same_statement_twice_is_nothing_new"
HEARD_OF = REVISIONS + (
    "test_an_order_is_heard_of_when_something_is_known_of_it_and_is_no_orphan_once_it_came"
)
ROWS = "tests/unit/test_features_history.py::"
CORRECTED = ROWS + "test_a_fact_counts_from_when_it_is_known_and_until_it_is_corrected"
KNOWN_ALREADY = ROWS + "test_facts_may_come_in_any_order_and_twice"
OTHERS_FACTS = ROWS + "test_what_became_of_one_order_is_forgotten_and_of_the_others_it_is_not"
GUESTS = REPLAY + "test_a_guest_counts_for_the_device_and_for_no_customer"

STAGES = "tests/unit/test_stream_stages.py::"
ROAD = "tests/parity/test_road_parity.py::"
AS_A_REPLAY = ROAD + "test_the_desk_of_a_worker_through_three_stages_computes_what_a_replay_says"
ANY_ORDER = ROAD + "test_in_whatever_order_messages_come_each_order_is_decided_once_and_rows_are_the_same"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One mistake: the file (of `features` where it names no folder), the words as they are and as they would
    be, and the test that catches it.
    """

    name: str
    file: str
    patches: tuple[tuple[str, str], ...]
    caught_by: str

    @property
    def path(self) -> Path:
        """Where the file is, from the root of the repository."""
        return Path(self.file) if "/" in self.file else Path("features", self.file)

    def put_into(self, root: Path) -> None:
        """Make the mistake in a copy of the repository."""
        path = root / self.path
        source = path.read_text(encoding="utf-8")
        for old, new in self.patches:
            if (found := source.count(old)) != 1:
                raise ValueError(
                    f"mutant '{self.name}' expects its words exactly once in {self.file} and found them "
                    f"{found} times: {old.strip().splitlines()[0]!r}; bring it up to date with the source"
                )
            source = source.replace(old, new)
        path.write_text(source, encoding="utf-8")


MUTANTS = (
    Mutant(
        "a window ends after its end",
        "questions.py",
        (("_first_from(placed, until, 0,", "_first_from(placed, until + (after == 0), 0,"),),
        WINDOW,
    ),
    Mutant(
        "a window begins after its beginning",
        "questions.py",
        (("until - spans[at, 1], 0, done)", "until - spans[at, 1] + 1, 0, done)"),),
        WINDOW,
    ),
    Mutant(
        "a window goes on where one that ends earlier began",
        "questions.py",
        (("if at > 0 and spans[at - 1, 0] == after:", "if at > 0:"),),
        TOGETHER,
    ),
    Mutant(
        "what another order of the same instant says was there before",
        "questions.py",
        (("_first_from(placed, as_of, 0,", "_first_from(placed, as_of + 1, 0,"),),
        ALL_WAYS,
    ),
    Mutant(
        "a label is used before it is known",
        "history.py",
        (("if known_at >= self.as_of:", "if known_at > self.as_of:"),),
        LABELS,
    ),
    Mutant(
        "labels are waited for too long",
        "questions.py",
        (("_first_from(placed, until, 0,", "_first_from(placed, until + (after > 0), 0,"),),
        LABELS,
    ),
    Mutant(
        "a fact belongs to when it was known",
        "history.py",
        (("if since <= said.placed_at < until]", "if since <= said.known_at < until]"),),
        LABELS,
    ),
    Mutant(
        "a correction is ignored",
        "history.py",
        (("about.pop(order, None)", "pass"),),
        TAKEN_BACK,
    ),
    Mutant(
        "a statement sent twice counts twice",
        "history.py",
        (("is_known = where < len(statements) and statements[where] == statement", "is_known = False"),),
        KNOWN_ALREADY,
    ),
    Mutant(
        "a late order is appended at the end",
        "history.py",
        (("if is_late or (newest_at is None and self._tiles):", "if False:"),),
        ALL_WAYS,
    ),
    Mutant(
        "answers are kept when the row changes",
        "history.py",
        (("self._changes += 1\n        if self._first_at is None", "if self._first_at is None"),),
        STALE,
    ),
    Mutant(
        "a late amount is as wide as the others",
        "history.py",
        (
            (
                "        if amount >> 32 == 0 or width == WORD:\n            here = width * where\n",
                """\
        if amount >> 32 == 0 or width != WORD:
            here, amount = width * where, amount & 0xFFFFFFFF
""",
            ),
        ),
        LARGEST,
    ),
    Mutant(
        "a tile that ends ahead is counted",
        "questions.py",
        (("high = _first_from(lasts, until,", "high = _first_from(tiles[:, 0], until,"),),
        FUTURE_TILES,
    ),
    Mutant(
        "the first tile of a window is left out",
        "questions.py",
        (("= min(low, high), high", "= min(low + 1, high), high"),),
        SHORT_ROWS,
    ),
    Mutant(
        "orders are folded too early",
        "history.py",
        (
            ("self._fold_at = limit + max(1, limit // TILED)", "self._fold_at = limit"),
            ("self._fold_at - self.limit\n", "max(1, self.limit // TILED)\n"),
        ),
        SHORT_ROWS,
    ),
    Mutant(
        "what was folded is forgotten by the words",
        "history.py",
        (("        self._use(last_used)\n", ""),),
        SHORT_ROWS,
    ),
    Mutant(
        "squares of amounts are cut to 63 bits",
        "tiles.py",
        (("*(money.squares >> _BITS, money.squares", "*(0, money.squares"),),
        SHORT_ROWS,
    ),
    Mutant(
        "a sum of squares loses its carry",
        "questions.py",
        (
            (
                """\
            squares_upper += squares >> _BITS
            squares &= _LOWER
            twice""",
                """\
            twice""",
            ),
        ),
        CARRY,
    ),
    Mutant(
        "tiles of one microsecond are taken for one",
        "tiles.py",
        (
            (
                "tile.take(Tile(first_at, last_at, {currency: money}))",
                "tile.money[currency], tile.count = money, count",
            ),
        ),
        ONE_MICROSECOND,
    ),
    Mutant(
        "a code is used for two values",
        "columns.py",
        (("code = len(vocabulary) // WORD\n", "code = len(vocabulary) // WORD - 1\n"),),
        ALL_WAYS,
    ),
    Mutant(
        "codes stay when a value is dropped",
        "history.py",
        (
            (
                """\
            else:
                varying[position] = column
""",
                """\
            else:
                varying[position] = (varying.get(position, column)[0], column[1])
""",
            ),
        ),
        ALL_WAYS,
    ),
    Mutant(
        "unknown counts as a value",
        "questions.py",
        (("if has[code] and vocabulary[code] != 0:", "if has[code]:"),),
        ALL_WAYS,
    ),
    Mutant(
        "amounts of several currencies are added raw",
        "questions.py",
        (("if width > 0 and _code_at(codes, width, where) != code:", "if False:"),),
        ALL_WAYS,
    ),
    Mutant(
        "an unknown number is taken for one",
        "questions.py",
        (("if number != 0:\n            numbers[known]", "if True:\n            numbers[known]"),),
        ALL_WAYS,
    ),
    Mutant(
        "numbers of folded orders are taken for known",
        "questions.py",
        (("answer[IS_CUT] = window[IS_CUT] or window[HIGH] > window[LOW]", "answer[IS_CUT] = 0"),),
        SHORT_ROWS,
    ),
    Mutant(
        "what no order says is another text",
        "questions.py",
        (("counts[at] = 0 != said != mine", "counts[at] = said != mine"),),
        COUNTED,
    ),
    Mutant(
        "a number has to be larger than the least",
        "questions.py",
        (("counts[at] = said > number", "counts[at] = said > number + 1"),),
        COUNTED,
    ),
    Mutant(
        "an unknown number is a small one",
        "questions.py",
        (("counts[at] = 0 < said <= number", "counts[at] = said <= number"),),
        COUNTED,
    ),
    Mutant(
        "an order as large has to be larger",
        "questions.py",
        (("if amounts[where] >= least and", "if amounts[where] > least and"),),
        COUNTED,
    ),
    Mutant(
        "an amount in another currency is as large",
        "questions.py",
        ((" >= least and _code_at(codes, width, where) == code:", " >= least:"),),
        COUNTED,
    ),
    Mutant(
        "the time of day ends at midnight",
        "questions.py",
        (("later <= near or later >= _DAY - near", "later <= near"),),
        COUNTED,
    ),
    Mutant(
        "conditions are met by orders nobody looked at",
        "questions.py",
        (
            (
                """\
        if window[IS_CUT] or window[HIGH] > window[LOW]:
            are_exact = 0
""",
                "",
            ),
        ),
        SHORT_ROWS,
    ),
    Mutant(
        "a column has the codes of another",
        "questions.py",
        (("first_code + words[at + _CODES]\n", "words[at + _CODES]\n"),),
        ALL_WAYS,
    ),
    Mutant(
        "the last place is the one before",
        "columns.py",
        (("for where in range(end - 1, -1, -1):", "for where in range(end - 2, -1, -1):"),),
        ALL_WAYS,
    ),
    Mutant(
        "a wrong function of the order goes unnoticed",
        "plan.py",
        (("if not isfinite(answer):", "if False:"),),
        WRONG_ANSWERS,
    ),
    Mutant(
        "a float is taken to hold every integer",
        "values.py",
        (("_SURE: Final = 1 << 53", "_SURE: Final = 1 << 61"),),
        NO_FLOAT,
    ),
    Mutant(
        "how far many amounts spread is cut off, not rounded",
        "values.py",
        (("        quotient |= 1\n", "        pass\n"), ("        top |= 1  #", "        pass  #")),
        HALF_WAY,
    ),
    Mutant(
        "what a large spread borrows is forgotten",
        "values.py",
        (("upper -= their_upper + (lower < 0)", "upper -= their_upper"),),
        NO_FLOAT,
    ),
    Mutant(
        "two orders are spread as one is",
        "values.py",
        (("elif number >= _ENOUGH_TO_SPREAD and", "elif number > _ENOUGH_TO_SPREAD and"),),
        NO_FLOAT,
    ),
    Mutant(
        "a text that the order does not say is new",
        "values.py",
        (("if words[more] != 0:", "if True:"),),
        ALL_WAYS,
    ),
    Mutant(
        "what tiles cut is called exact",
        "values.py",
        (("                is_cut = 1", "                is_cut = 0"),),
        SHORT_ROWS,
    ),
    Mutant(
        "one entity's key finds another's history",
        "define.py",
        (("known(each.entity)", 'known(each.entity and "customer")'),),
        ALL_WAYS,
    ),
    Mutant(
        "a revision counts beside what it revises",
        "revisions.py",
        (("forgotten, self.held = self.held, None", "forgotten, self.held = None, None"),),
        DESK,
    ),
    Mutant(
        "an older revision takes a newer one's place",
        "revisions.py",
        (("if before and max(", "if False and max("),),
        OLDER_REVISION,
    ),
    Mutant(
        "a test order is remembered",
        "revisions.py",
        (("if order.test or not ids:", "if not ids:"),),
        DESK,
    ),
    Mutant(
        "a guest leaves a history",
        "revisions.py",
        (("(named := ENTITIES[each](order)) is not None", "(named := ENTITIES[each](order) or order.key)"),),
        GUESTS,
    ),
    Mutant(
        "facts are left behind where the order stood",
        "replay.py",
        (("                row.forget_facts(order_id)\n", ""),),
        MOVES,
    ),
    Mutant(
        "facts do not come along to where the order stands",
        "revisions.py",
        (("facts = self._facts(order.order_id) if self.statements else ()", "facts = ()"),),
        MOVES,
    ),
    Mutant(
        "an order is forgotten by the entities that it names now",
        "replay.py",
        (("for row in self._rows_of(forgotten.ids):", "for row in self._rows_of(ids):"),),
        MOVES,
    ),
    Mutant(
        "what is said later is learned where the order stood first",
        "revisions.py",
        (("Held(ids, placed_at,", "Held(forgotten.ids if forgotten else ids, placed_at,"),),
        MOVES,
    ),
    Mutant(
        "a fact belongs to when its order was first placed",
        "revisions.py",
        (("Held(ids, placed_at,", "Held(ids, forgotten.placed_at if forgotten else placed_at,"),),
        NEWEST,
    ),
    Mutant(
        "two statements of one fraud are two losses",
        "history.py",
        (("elif before is None or is_replaced:", "elif before is None:"),),
        ONE_LOSS,
    ),
    Mutant(
        "the last refund is taken for all of them",
        "history.py",
        (("is_replaced = FACTS[what] in LAST_COUNTS", "is_replaced = True"),),
        SENT_TWICE,
    ),
    Mutant(
        "a correction counts before it is known",
        "history.py",
        (("if known_at >= self.as_of:", "if known_at >= self.as_of and is_so:"),),
        CORRECTED,
    ),
    Mutant(
        "a statement that waits is lost to a test order",
        "revisions.py",
        (("if order.test or not ids:\n", "if order.test or not ids:\n            self.statements = ()\n"),),
        WAITS,
    ),
    Mutant(
        "a superseded outcome goes on counting",
        "facts.py",
        (("if until is None or each.known_at < until:", "if True:"),),
        SUPERSEDES,
    ),
    Mutant(
        "a superseded outcome never counted",
        "facts.py",
        (("if until is None or each.known_at < until:", "if until is None:"),),
        SUPERSEDES,
    ),
    Mutant(
        "what is withdrawn is learned only",
        "revisions.py",
        (("tuple([each for each in before if each not in after])", "()"),),
        STAYS_SO,
    ),
    Mutant(
        "an outcome supersedes itself",
        "facts.py",
        (("if name is not None and name != each.name:", "if name is not None:"),),
        ITSELF,
    ),
    Mutant(
        "a statement heard twice is kept twice",
        "revisions.py",
        (("if statement in self.statements:", "if False:"),),
        TWICE,
    ),
    Mutant(
        "an order is forgotten whatever is said of it",
        "revisions.py",
        (("at = microseconds(statement.known_at)", "at = 0"),),
        HEARD_OF,
    ),
    Mutant(
        "with one order's facts all are forgotten",
        "history.py",
        (("if said[_WHERE_ORDER] != wanted", "if False"),),
        OTHERS_FACTS,
    ),
    Mutant(
        "what is said of an order is learned where it stands no more",
        "stream/stage.py",
        (("if passing.standing < overlay.passed(at, self._entity).standing:", "if False:"),),
        STAGES + "test_what_is_told_of_an_order_after_it_has_left_a_history_is_not_learned_there",
    ),
    Mutant(
        "an order is put where an earlier revision says, whichever comes first",
        "stream/passed.py",
        (("if standing <= self.standing:", "if False:"),),
        STAGES + "test_an_order_stands_where_its_newest_revision_says_whichever_comes_first",
    ),
    Mutant(
        "an order whose revision overtook it enters its history all the same",
        "stream/passed.py",
        (("            if not self.standing:\n", "            if True:\n"),),
        ANY_ORDER,
    ),
    Mutant(
        "a revision does not leave where the order stood first",
        "stream/passed.py",
        (("                taken_out.append(stood)\n", "                pass\n"),),
        STAGES + "test_a_revision_leaves_the_histories_it_is_not_in_any_more",
    ),
    Mutant(
        "the stage that an order leaves is not the one that is told",
        "stream/home.py",
        (("there = {entity: before}", "there = {road.entities[0]: before}"),),
        AS_A_REPLAY,
    ),
    Mutant(
        "what was withdrawn stays known at a stage",
        "stream/stage.py",
        (("changes = [row.unlearn(fact) for fact in passing.withdrawn]", "changes = []"),),
        STAGES + "test_what_was_superseded_before_it_was_known_is_known_to_no_history",
    ),
    Mutant(
        "what was said of an order before it came is lost on its road",
        "stream/stage.py",
        (("        for fact in passing.facts:\n            row.learn(fact)\n", ""),),
        STAGES + "test_an_outcome_waits_for_its_order",
    ),
    Mutant(
        "facts pass over a stage, and overtake an order that can not",
        "stream/road.py",
        (("if passing.stood or not any(each in passing.ids for each in further):\n", "if True:\n"),),
        STAGES + "test_facts_go_the_way_of_their_order_and_so_never_overtake_it",
    ),
    Mutant(
        "a resend is decided anew at its last stage",
        "stream/stage.py",
        (("if travelling.repeat_of is None:\n", "if True:\n"),),
        STAGES + "test_a_resend_hears_what_it_heard_although_more_is_known_of_what_came_before",
    ),
    Mutant(
        "the last stage does not keep what it decided",
        "stream/stage.py",
        (("        passed.keep(seen)\n", ""),),
        STAGES + "test_a_resend_hears_what_it_heard_although_more_is_known_of_what_came_before",
    ),
    Mutant(
        "the past is decided at the last stage",
        "stream/stage.py",
        (("        if travelling.is_history:\n            return None\n        return self._at_its_end",
          "        return self._at_its_end"),),
        STAGES + "test_history_is_remembered_at_every_stage_and_decided_nowhere",
    ),
    Mutant(
        "an order is part of its own past at a stage",
        "stream/stage.py",
        (("found[1].as_of(order.placed_at)", "found[1].as_of(order.placed_at + timedelta(microseconds=1))"),
         ("from typing import Final", "from datetime import timedelta\nfrom typing import Final")),
        AS_A_REPLAY,
    ),
    Mutant(
        "a stage decides under the control state of its own",
        "stream/stage.py",
        (("travelling.is_observed, travelling.passed)", "False, travelling.passed)"),),
        STAGES + "test_an_order_is_decided_under_the_control_state_that_home_saw",
    ),
    Mutant(
        "a stage forgets by the time of home",
        "stream/stage.py",
        (("(record.partition, order, self._entity)", "(record.partition, order)"),),
        STAGES + "test_each_stage_forgets_by_its_own_time",
    ),
    Mutant(
        "what another model computed is taken for ours",
        "stream/stage.py",
        (("if travelling.names == part.names:", "if True:"),),
        STAGES + "test_a_worker_with_another_model_decides_with_what_both_know",
    ),
    Mutant(
        "a stage takes for an order's arrival when home appended it",
        "stream/road.py",
        (("str(passing.home.arrived_at).encode()", "str(passing.home.timestamp).encode()"),),
        STAGES + "test_what_arrived_elsewhere_before_says_so_at_every_stage",
    ),
)  # fmt: skip

QUICK = ("a window ends after its end", "a label is used before it is known", "a correction is ignored")
"""Those that `make test` tries."""


def a_copy(folder: Path) -> Path:
    """A copy of what the tests of features need, with what numba compiled of it."""
    for name in ("features", "models", "stream", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.pyc"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def passes(root: Path, test: str) -> bool:
    """Whether a test passes in this copy; a test that cannot be run at all is our own mistake."""
    words = ["-m", "pytest", "-x", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", "--hypothesis-seed=1"]
    done = subprocess.run(
        [sys.executable, *words, test],
        cwd=root,
        env={**os.environ, "PARITY_SEARCH_ONLY": "1", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{test} could not be run:\n{done.stdout}{done.stderr}")
    return done.returncode == 0


def is_caught(mutant: Mutant) -> bool:
    """Whether the mutant's test fails with the mistake."""
    with tempfile.TemporaryDirectory() as folder:
        root = a_copy(Path(folder))
        mutant.put_into(root)
        return not passes(root, mutant.caught_by)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", help="only mutants with these words in their names")
    parser.add_argument(
        "--record", action="store_true", help="keep the figures of all of them in tests/bench/RESULTS.md"
    )
    arguments = parser.parse_args()
    chosen = [each for each in MUTANTS if all(word in each.name for word in arguments.words)]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        root = a_copy(Path(folder))
        for test in dict.fromkeys(each.caught_by for each in chosen):
            if not passes(root, test):
                print(f"{test} fails without any mistake; mend that first", file=sys.stderr)
                return 1
    missed = []
    for each in chosen:
        found = is_caught(each)
        missed += [] if found else [each.name]
        print(
            f"{'caught' if found else 'MISSED'}  {each.name}  ({each.caught_by.partition('::')[2]})",
            flush=True,
        )
    print(f"{len(chosen) - len(missed)} of {len(chosen)} mistakes caught")
    if arguments.record and not arguments.words:
        of_stages = [each for each in chosen if each.path.parts[0] == "stream"]
        record(
            "Known mistakes in the features and the stages",
            {
                "mistakes in the features": len(chosen) - len(of_stages),
                "mistakes in the stages": len(of_stages),
                "caught": len(chosen) - len(missed),
                "missed": len(missed),
                "tests that catch them": len({each.caught_by for each in chosen}),
                "seconds": time.monotonic() - began,
            },
            "".join(f"MISSED: {name}. " for name in missed).strip(),
        )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
