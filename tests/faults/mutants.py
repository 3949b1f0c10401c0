"""The mistakes the simulation must find: each changes a few words of `stream/writer.py` or `stream/merge.py`.

A mutant is named by the mistake it makes. Its patches must each match the two sources exactly once, so a
change that hides one is noticed at once.
"""

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import stream.merge
import stream.writer

SOURCES = [Path(module.__file__) for module in (stream.merge, stream.writer)]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One mistake: the words as they are, and as they would be."""

    name: str
    patches: tuple[tuple[str, str], ...]

    def module(self) -> ModuleType:
        """The writer with this mistake in it, be it in its merge."""
        texts = [source.read_text(encoding="utf-8") for source in SOURCES]
        for old, new in self.patches:
            if (found := sum(text.count(old) for text in texts)) != 1:
                raise ValueError(
                    f"mutant '{self.name}' expects its words exactly once and found them {found} times: "
                    f"{old.strip().splitlines()[0]!r}; bring it up to date with the writer and the merge"
                )
            texts = [text.replace(old, new) for text in texts]
        merge, writer = (ModuleType(f"stream.{source.stem}") for source in SOURCES)
        for module, text in zip((merge, writer), texts, strict=True):
            exec(compile(text, f"<{self.name}>", "exec"), module.__dict__)  # noqa: S102 (our own source)
        writer.__dict__["Merge"] = merge.Merge
        return writer


_FLUSH_COMMIT_STORE = """\
        delivered = producer.flush()
        producer.commit()
        self._merge.produced(delivered, effects.produce)
        for number, position in inputs.items():
            partition = self._partitions[number]
"""

MUTANTS = (
    Mutant(
        "store before commit",
        (
            (
                _FLUSH_COMMIT_STORE,
                """\
        delivered = producer.flush()
        for number, position in inputs.items():
            self._store.write(
                number,
                effects.rows.get(number, {}),
                LocalPosition(
                    position,
                    delivered[self._changelog, number] + 1,
                    self._partitions[number].log,
                    self._clock.wall(),
                ),
            )
        producer.commit()
        for number, position in inputs.items():
            partition = self._partitions[number]
""",
            ),
        ),
    ),
    Mutant(
        "offsets read before stable",
        (
            (
                "return self._cluster.committed(tps, stable=True)",
                "return self._cluster.committed(tps, stable=False)",
            ),
        ),
    ),
    Mutant(
        "restore to the last stable offset only",
        (
            (
                """\
            except NotStable as error:
                self._wait_for_stable(error)
                self._end_left_open(self._tps([number]))
            else:
                break
""",
                """\
            except NotStable:
                return LocalPosition(
                    {t: c.offset for t in self._inputs
                     if (c := self._cluster.committed([(t, number)], stable=True)[t, number]) is not None},
                    local.changelog, local.log, local.stored_at)
            else:
                break
""",
            ),
        ),
    ),
    Mutant(
        "old batch sent under a new generation",
        (
            (
                "if assignment is None or producer is None or self.mailbox.assignment is not assignment:",
                "if assignment is None or producer is None:",
            ),
            (
                "        producer.send_offsets(offsets, assignment)",
                "        producer.send_offsets(offsets, self.mailbox.assignment or assignment)",
            ),
        ),
    ),
    Mutant(
        "changelog outside the transaction",
        (
            (
                """\
        producer.begin()
        for record in effects.produce:
""",
                """\
        producer.begin()
        for number, rows in effects.rows.items():
            producer.produce_rows(self._changelog, number, rows)
        producer.flush()
        producer.commit()
        producer.begin()
        for record in effects.produce:
""",
            ),
        ),
    ),
    Mutant(
        "delivery error ignored",
        (
            (
                _FLUSH_COMMIT_STORE,
                """\
        try:
            delivered = producer.flush()
        except Aborted:
            delivered = {(self._changelog, n): self._cluster.high((self._changelog, n)) - 1 for n in inputs}
        producer.commit()
        for number, position in inputs.items():
            partition = self._partitions[number]
""",
            ),
        ),
    ),
    Mutant(
        "gap accepted",
        (("if new and new[0].offset > self.reached and", "if False and"),),
    ),
    Mutant(
        "gap of the first batch accepted",
        (("(batch.after is None or batch.after > self.reached)", "(batch.after or 0) > self.reached"),),
    ),
    Mutant(
        "own position not checked",
        (
            (
                "                new = [record for record in records if record.offset >= self.reached]\n",
                "                new = list(records)\n",
            ),
        ),
    ),
    Mutant(
        "dead owner not fenced",
        (("            self._cluster.producer(name).close()\n", ""),),
    ),
    Mutant(
        "living owner fenced",
        (
            (
                'if owner.member not in members and owner.name not in {"", self._name, *members.values()}',
                'if owner.name not in {"", self._name}',
            ),
        ),
    ),
    Mutant(
        "owner not claimed",
        (
            (
                """\
                    self._name,
                    assignment.member,
                    opens=opens,
""",
                """\
                    Owner.of(committed[self._inputs[0], number]).name,
                    Owner.of(committed[self._inputs[0], number]).member,
                    opens=opens,
""",
            ),
        ),
    ),
    Mutant(
        "overlay kept after abort",
        (
            (
                """\
            effects = self._desk.decide(plain, self._store.recall, self._watermarks(), self.opened)
            self._make_true(effects, self._ends(plain))
""",
                """\
            kept = self.__dict__.setdefault("_kept", {})
            effects = self._desk.decide(
                plain,
                lambda n, k: kept[n, k] if (n, k) in kept else self._store.recall(n, k),
                self._watermarks(),
                self.opened,
            )
            kept.update({(n, k): v for n, rows in effects.rows.items() for k, v in rows.items()})
            self._make_true(effects, self._ends(plain))
            kept.clear()
""",
            ),
        ),
    ),
    Mutant(
        "position kept after abort",
        (
            (
                _FLUSH_COMMIT_STORE,
                """\
        for number, position in inputs.items():
            self._partitions[number].inputs = position
"""
                + _FLUSH_COMMIT_STORE,
            ),
        ),
    ),
    Mutant(
        "retry after unknown outcome",
        (
            (
                """\
            self._start_over()
            self._bear(error)
        except (Unreachable, NotStable) as error:
""",
                """\
            if self._opened is None:
                self._start_over()
            else:
                self._drop_producer()
                try:
                    self._producer = self._cluster.producer(self._name)
                except Unreachable:
                    self._start_over()
            self._bear(error)
        except (Unreachable, NotStable) as error:
""",
            ),
        ),
    ),
    Mutant(
        "abort after unknown outcome",
        (
            (
                _FLUSH_COMMIT_STORE,
                """\
        delivered = producer.flush()
        try:
            producer.commit()
        except OutcomeUnknown as error:
            raise Aborted("no answer") from error
        for number, position in inputs.items():
            partition = self._partitions[number]
""",
            ),
        ),
    ),
    Mutant(
        "unknown outcome taken for success",
        (
            (
                _FLUSH_COMMIT_STORE,
                """\
        delivered = producer.flush()
        try:
            producer.commit()
        except OutcomeUnknown:
            self._drop_producer()
            self._producer = self._cluster.producer(self._name)
        for number, position in inputs.items():
            partition = self._partitions[number]
""",
            ),
        ),
    ),
    Mutant(
        "position not in the changelog",
        (
            (
                """\
        for number, position in inputs.items():
            value = encode_position(position, self._group, self._logs, watermarks[number])
            producer.produce(Produce(self._changelog, number, POSITION_KEY, value))
        offsets = {""",
                """\
        for number, position in inputs.items():
            value = encode_position(position, self._group, self._logs, watermarks[number])
            producer.produce(Produce("elsewhere", number, POSITION_KEY, value))
            producer.produce(Produce(self._changelog, number, b"none", None))
        offsets = {""",
            ),
        ),
    ),
    Mutant(
        "local ahead accepted",
        (
            (
                "            if is_whole and found == expected:\n",
                "            if is_whole and all(found.get(t, -1) >= at for t, at in expected.items()):\n",
            ),
        ),
    ),
    Mutant(
        "local behind accepted",
        (
            (
                """\
        while True:
            self._check_current(assignment)
            try:
                for chunk in self._cluster.read(tp, local.changelog, high):
""",
                """\
        if local.inputs:
            return LocalPosition(
                {t: c.offset for t in self._inputs
                 if (c := self._cluster.committed([(t, number)], stable=True)[t, number]) is not None},
                local.changelog, local.log, local.stored_at)
        while True:
            self._check_current(assignment)
            try:
                for chunk in self._cluster.read(tp, local.changelog, high):
""",
            ),
        ),
    ),
    Mutant(
        "rows older than the tombstones trusted",
        (
            (
                "            or self._clock.wall() - local.stored_at > self._limits.tombstones_s\n",
                "",
            ),
        ),
    ),
    Mutant(
        "claimed before restored",
        (
            (
                "        restored = {number: self._restore(number,",
                """\
        claim = {}
        for tp, before in committed.items():
            if before is not None:
                was = Owner.of(before)
                words = Owner(self._name, assignment.member, opens=was.opens, tries=was.tries)
                claim[tp] = words.left_with(before.offset)
        if claim:
            self._producer.begin()
            self._producer.send_offsets(claim, assignment)
            self._producer.flush()
            self._producer.commit()
        restored = {number: self._restore(number,""",
            ),
        ),
    ),
    Mutant(
        "lost tail never looked for",
        (
            (
                "                if not (self._look_for_lost_records() or went_on):\n",
                "                if not went_on:\n",
            ),
        ),
    ),
    Mutant(
        "lost tail noted before it is read",
        (
            (
                """\
        read = 0
        for chunk in self._cluster.read(tp, begin, end):
""",
                """\
        read = 0
        found = self._cluster.read(tp, begin, end)
        self._merge.fill(tp, (), end)
        for chunk in found:
""",
            ),
        ),
    ),
    Mutant(
        "of those that arrived together the wrong one goes first",
        (("self._inputs[tp] = _Input(tp, rank,", "self._inputs[tp] = _Input(tp, -rank,"),),
    ),
    Mutant(
        "an empty input that is behind not waited for",
        (
            (
                "        return self.is_behind(now) or now - self.asked_at >= trusted_s\n",
                "        return False\n",
            ),
        ),
    ),
    Mutant(
        "an end believed for ever",
        (
            ("now - self.asked_at >= trusted_s\n", "self.asked_at < 0\n"),
            ("now - each.asked_at >= self._trusted_s / 2\n", "each.asked_at < 0\n"),
        ),
    ),
    Mutant(
        "a live record waits for nothing",
        (("        return appended <= sure + self._trusted_s * 1000 and", "        return"),),
    ),
    Mutant(
        "a published record taken for a live one",
        ((" and appended - held.arrived_at < _LIVE_MS\n", "\n"),),
    ),
    Mutant(
        "an input waited for without a bound",
        (
            ("            and now - each.missed_since >= self._wait_s\n", "            and False\n"),
            ("        return min(waits, default=None)\n", "        return None\n"),
        ),
    ),
    Mutant(
        "a gap read twice",
        (
            (
                """\
        self._hold(new, is_history=False)
        self.reached = max(self.reached, until)
""",
                """\
        self._hold(new, is_history=False)
        self.reached = max(self.reached, until if new else 0)
        self.reached -= len(new) == 1
""",
            ),
        ),
    ),
    Mutant(
        "what was taken is lost with an aborted transaction",
        (("            merge.put_back(self.opened)\n", "            pass\n"),),
    ),
    Mutant(
        "what was committed after all taken again",
        (
            (
                "            if held.record.offset >= positions.get(number, {}).get(topic, 0):\n",
                "            if True:\n",
            ),
        ),
    ),
    Mutant(
        "taken again after an unknown outcome",
        (("                    self._inputs[tp].take_over(offsets[topic])\n", ""),),
    ),
    Mutant(
        "the position of another input not in the transaction",
        (
            (
                "ends.setdefault(record.partition, {})[record.topic] = record.offset + 1",
                "ends.setdefault(record.partition, {}).setdefault(records[-1].topic, record.offset + 1)",
            ),
        ),
    ),
    Mutant(
        "a stage's position not restored",
        (
            (
                "self._inputs[tp].take_over(offsets[topic])\n",
                "self._inputs[tp].take_over(offsets[topic] * (group is self._groups[0]))\n",
            ),
            (
                "self._inputs[tp] = _Input(tp, rank, offsets[topic])",
                "self._inputs[tp] = _Input(tp, rank, offsets[topic] * (group is self._groups[0]))",
            ),
        ),
    ),
    Mutant(
        "the desk told where the others come to, not where they were",
        (
            (
                """\
            effects = self._desk.decide(plain, self._store.recall, self._watermarks(), self.opened)
            self._make_true(effects, self._ends(plain))
""",
                """\
            after = {n: dict(offsets) for n, offsets in self.opened.items()}
            for record in plain:
                after[record.partition][record.topic] = record.offset + 1
            effects = self._desk.decide(plain, self._store.recall, self._watermarks(), after)
            self._make_true(effects, self._ends(plain))
""",
            ),
        ),
    ),
    Mutant(
        "what waited under an old assignment taken under the new one",
        (("        if self._merging is not assignment:\n", "        if self._merging is None:\n"),),
    ),
    Mutant(
        "position of a new input not in the claim",
        (
            (
                "for number, inputs in started.items():\n            # only",
                "for number, inputs in ():\n            # only",
            ),
            (
                "for number, inputs in started.items():\n            after",
                "for number, inputs in ():\n            after",
            ),
        ),
    ),
    Mutant(
        "careful attempt not announced",
        (
            (
                "self._make_true(Effects(), {partition.number: {}}",
                "(lambda *_: None)(Effects(), {partition.number: {}}",
            ),
        ),
    ),
    Mutant(
        "openings in vain not counted",
        (("owner.opens + (0 if again else 1)", "owner.opens"),),
    ),
    Mutant(
        "namesake not waited for",
        (("        self._wait_to_be_alone(assignment)\n", ""),),
    ),
    Mutant(
        "both namesakes refuse",
        (("assignment.member < min(others)", "False"),),
    ),
    Mutant(
        "neither namesake refuses",
        ((" and assignment.member < min(others)", ""),),
    ),
    Mutant(
        "tombstone of an evicted key not in the transaction",
        (
            (
                """\
            producer.produce_rows(self._changelog, number, rows)
""",
                """\
            for key, value in rows.items():
                if value is not None or not effects.counts["rows_evicted"]:
                    producer.produce(Produce(self._changelog, number, key, value))
""",
            ),
        ),
    ),
    Mutant(
        "evicted before the transaction",
        (
            (
                "        self._evict(effects, ends)\n",
                """\
        self._evict(effects, ends)
        for number, rows in effects.rows.items():
            here = self._partitions[number]
            self._store.write(
                number,
                {key: None for key, value in rows.items() if value is None},
                LocalPosition(
                    here.inputs,
                    self._store.position(number).changelog,
                    here.log,
                    self._clock.wall(),
                    here.watermark,
                ),
            )
""",
            ),
        ),
    ),
    Mutant(
        "evicted one too early",
        (
            (
                "before = self._horizons.at(watermark)",
                "before = {kind: at + 1 for kind, at in self._horizons.at(watermark).items()}",
            ),
        ),
    ),
    Mutant(
        "a key evicted that its batch touches",
        (("                if key not in touched:\n", "                if True:\n"),),
    ),
    Mutant(
        "watermark not restored",
        (
            (
                "inputs, watermark = position.inputs, position.watermark",
                "inputs = position.inputs",
            ),
        ),
    ),
    Mutant(
        "watermark not in the position",
        (
            (
                "value = encode_position(position, self._group, self._logs, watermarks[number])",
                "value = encode_position(position, self._group, self._logs)",
            ),
        ),
    ),
    Mutant(
        "watermark lost with the claim of a new input",
        (
            (
                "value = encode_position(inputs, self._group, self._logs, partitions[number].watermark)",
                "value = encode_position(inputs, self._group, self._logs)",
            ),
        ),
    ),
    Mutant(
        "watermark kept after abort",
        (
            (
                "        self._evict(effects, ends)\n",
                """\
        self._evict(effects, ends)
        for number, watermark in watermarks.items():
            self._partitions[number].watermark = watermark
""",
            ),
        ),
    ),
    Mutant(
        "a held worker goes on",
        (
            (" and not self._held\n", "\n"),
            ("        if self.mailbox.held:\n            raise _Held\n", "        return\n"),
        ),
    ),
)
