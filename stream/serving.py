"""Models in service in a worker: loaded off the writer's thread, and in force only once they are ready.

A control state is taken up when the models that it newly names are loaded, or known to fail. Whatever is
decided meanwhile is decided under the state before, and says so by its control offset.
"""

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from features.define import Feature
from models.decision import ModelRef
from models.manifest import Manifest
from models.registry import Registry
from models.scorer import Scorer
from stream.control import ControlState
from stream.errors import Refusal
from stream.panel import Panels
from stream.registry import check_servable
from stream.service import Served, Service
from stream.settings import Settings

__all__ = ["Serving", "Shelf", "check_served"]

log = logging.getLogger("fraudstream.serving")

_CRASHED: Final = 70
_SAID: Final = 5
_AGAIN_S: Final = 30.0
"""After so long a model that could not be loaded is tried again."""


class _Described(NamedTuple):
    features: tuple[Feature, ...]
    size: int
    """Bytes of its files, which is about what it takes in memory."""


class Shelf:
    """The published models that are in service, loaded when they are asked for; any thread may ask."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        """`registry` finds the features that the settings name."""
        self._settings = settings
        self._registry = registry
        self._most = settings.serving_memory_mb * 1024 * 1024
        self._lock = threading.Lock()
        self._loading: dict[ModelRef, threading.Lock] = {}
        self._described: dict[ModelRef, _Described] = {}
        self._loaded: OrderedDict[ModelRef, Scorer] = OrderedDict()
        """The one asked last stands last."""
        self._failed: dict[ModelRef, float] = {}
        self.failures = 0
        """How often a model could not be had."""

    def features(self, served: Served) -> Sequence[Feature] | None:
        """What the model asks, its digest checked; None where it can't be used."""
        known = self._described.get(served.ref)
        if known is None and not self._has_just_failed(served.ref):
            known = self._describe(served)
        return None if known is None else known.features

    def scorer(self, served: Served) -> Scorer | None:
        """The model, loaded now where it was not; None where it can't be used.

        One that failed is tried again in a thread of its own: orders wait for a model once only.
        """
        ref = served.ref
        with self._lock:
            scorer = self._loaded.get(ref)
            if scorer is not None:
                self._loaded.move_to_end(ref)
                return scorer
            if ref in self._failed:
                if not self._has_just_failed(ref):
                    self._failed[ref] = time.monotonic()
                    threading.Thread(target=self._load, args=(served,), name="models", daemon=True).start()
                return None
            loading = self._loading.setdefault(ref, threading.Lock())
        with loading:  # not the shelf's lock: who has what he needs waits for nobody
            with self._lock:
                scorer = self._loaded.get(ref)
            return self._load(served) if scorer is None else scorer

    def load_ahead(self, several: Iterable[Served]) -> None:
        """Load models, one after the other, for as long as they fit beside those that are there."""
        for each in several:
            described = None if each.ref in self._failed else self._describe(each)
            if described is None:
                continue
            with self._lock:
                if each.ref in self._loaded:
                    continue
                if self._held() + described.size > self._most:
                    return
            self.scorer(each)

    @property
    def loaded(self) -> int:
        """How many models are in memory."""
        return len(self._loaded)

    def _describe(self, served: Served) -> _Described | None:
        described = self._described.get(served.ref)
        if described is not None:
            return described
        try:
            manifest, features = check_served(self._settings, self._registry, served)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, others decide
            self._fail(served, error)
            return None
        described = _Described(features, sum(each.size for each in manifest.files.values()))
        self._described[served.ref] = described
        return described

    def _load(self, served: Served) -> Scorer | None:
        described = self._describe(served)
        if described is None:
            return None
        ref = served.ref
        try:
            scorer = self._registry.load(ref.name, ref.version)
            _check_digest(served, scorer.digest)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, others decide
            self._fail(served, error)
            return None
        with self._lock:
            self._loaded[ref] = scorer
            self._failed.pop(ref, None)
            self._make_room()
        return scorer

    def _make_room(self) -> None:
        """Let go of what was asked longest ago; the one asked last stays, whatever its size."""
        held = self._held()
        while held > self._most and len(self._loaded) > 1:
            gone, _ = self._loaded.popitem(last=False)
            held -= self._described[gone].size

    def _held(self) -> int:
        return sum(self._described[each].size for each in self._loaded)

    def _has_just_failed(self, ref: ModelRef) -> bool:
        failed_at = self._failed.get(ref)
        return failed_at is not None and time.monotonic() - failed_at < _AGAIN_S

    def _fail(self, served: Served, error: Exception) -> None:
        self._failed[served.ref] = time.monotonic()
        self.failures += 1
        log.error("%s is %s and can't be used: %s", served.said, served.role, error)


def check_served(
    settings: Settings, registry: Registry, served: Served
) -> tuple[Manifest, tuple[Feature, ...]]:
    """What the registry says of a model in service, and the features it asks; nothing is loaded.

    Raises ModelError, or a Refusal, where workers of these settings can't use it.
    """
    manifest, digest, features = registry.described(served.ref.name, served.ref.version)
    _check_digest(served, digest)
    check_servable(settings, manifest, features)
    return manifest, features


def _check_digest(served: Served, digest: str) -> None:
    if digest != served.ref.digest:
        raise Refusal(
            f"it was deployed with digest {served.ref.digest[:12]} and the registry has it with "
            f"{digest[:12]}; bring the folder of then back from a copy"
        )


class Serving:
    """The newest control state whose models are ready; the control thread tells it of new ones."""

    def __init__(self, shelf: Shelf, panels: Panels, state: ControlState) -> None:
        """Takes up a first state, however long that takes; what only some orders need loads beside them."""
        self._shelf = shelf
        self._panels = panels
        self._changed = threading.Condition()
        self._told = self._reached = 0
        """How many states were told of, and which of them is in force: offsets begin anew with a topic."""
        self._state = state
        self._prepare(state.service)
        self._mind(state.service)
        if state.service.served:
            threading.Thread(target=self._load_ahead, args=(state,), name="models", daemon=True).start()

    @property
    def state(self) -> ControlState:
        """What is in force in this worker."""
        return self._state

    def take_up(self, state: ControlState) -> None:
        """Have a state in force as soon as its models are ready."""
        self._told += 1
        if state.service is self._state.service or _needs_nobody(state.service):
            self._put(state, self._told)  # at once: a kill switch must not wait for a model that loads
            return
        threading.Thread(target=self._take_up, args=(state, self._told), name="models", daemon=True).start()

    def settle(self, seconds: float) -> bool:
        """Wait until the newest state that was told of is in force; False if it takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: self._reached >= self._told, seconds)

    def _take_up(self, state: ControlState, told: int) -> None:
        try:
            self._prepare(state.service)
        except BaseException as failure:
            # what is in force now was not foreseen: going on under it would be against a person's word
            log.critical("the models in service can't be prepared; the worker ends", exc_info=failure)
            logging.shutdown()
            os._exit(_CRASHED)
        self._put(state, told)
        self._load_ahead(state)

    def _load_ahead(self, state: ControlState) -> None:
        """Load what is left, the one moved last first.

        A restarted worker meets orders of all scopes in its first second: each would wait for its model.
        """
        if not _needs_nobody(state.service):
            self._shelf.load_ahead(sorted(state.service.served, key=lambda each: -each.offset))

    def _prepare(self, service: Service) -> None:
        """Load what was moved last, and what any order may meet: a state waits for no more."""
        self._panels.of(service)
        if _needs_nobody(service):
            return
        for each in service.served:
            is_new = each.offset == service.since - 1
            if is_new or (each.scope.is_everywhere and each.role in {"champion", "fallback", "canary"}):
                self._shelf.scorer(each)

    def _put(self, state: ControlState, told: int) -> None:
        self._panels.of(state.service)
        with self._changed:
            is_newer = told > self._reached
            is_moved = state.service is not self._state.service
            if is_newer:
                self._state, self._reached = state, told
            self._changed.notify_all()
        if is_newer and is_moved:
            log.info(
                "models of control offset %d are there: %s",
                state.next_offset,
                _said(state.service),
            )
            self._mind(state.service)

    def _mind(self, service: Service) -> None:
        """See to it that models of which nothing could be read decide once they can be read."""
        if self._panels.of(service).lacks:
            threading.Thread(target=self._mend, args=(service,), name="models", daemon=True).start()

    def _mend(self, service: Service) -> None:
        """Look again and again what could not be read, until it is there or others are in service."""
        while self._panels.of(service).lacks:
            with self._changed:
                if self._changed.wait_for(lambda: self._state.service is not service, _AGAIN_S):
                    return
            if not self._panels.renew(service):
                continue
            self._prepare(service)
            with self._changed:
                if self._state.service is service:
                    self._state = replace(self._state)  # another one, so that the desk looks
            log.info("models that could not be read are there now")


def _said(service: Service) -> str:
    """The models in service; of hundreds those that were moved last."""
    if not service.served:
        return "the one that the settings name"
    last = sorted(service.served, key=lambda each: -each.offset)[:_SAID]
    left = len(service.served) - len(last)
    return "; ".join(map(str, last)) + (f"; and {left} more" if left else "")


def _needs_nobody(service: Service) -> bool:
    """Whether everything is decided without a model."""
    return service.kill in {"approve", "review"}
