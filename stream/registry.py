"""The registry that the settings name: a folder, or an address of a store of objects such as s3://bucket/models."""

from collections.abc import Callable, Sequence
from pathlib import Path

from features.catalogue import by_name
from features.define import Feature
from models.manifest import Manifest
from models.policy import Policy
from models.registry import Registry
from models.shelf import Folder, Objects, Shelf
from stream.keeping import check_horizons
from stream.own_features import catalogue_of
from stream.ports import Refused
from stream.settings import Settings

__all__ = ["check_servable", "policy_of", "registry_of", "registry_with_features", "shelf_of"]


def registry_of(settings: Settings, find_feature: Callable[[str], Feature] = by_name) -> Registry:
    """The published models, and the key they are signed with; `find_feature` gives the feature of a name.

    Raises SettingsError, and ArchiveError for an address that can't be opened.
    """
    return Registry(
        shelf_of(settings.registry_address),
        key=settings.signing_secret(),
        find_feature=find_feature,
        entities=settings.entities,
    )


def registry_with_features(settings: Settings) -> Registry:
    """The registry, with the features that the settings name: enough to load a model.

    Raises as `registry_of`, and OwnFeaturesError.
    """
    return registry_of(settings, catalogue_of(settings).by_name)


def shelf_of(address: str) -> Shelf:
    """Where files lie: a folder, or a store of objects. Raises ArchiveError where it can't be opened."""
    if "://" not in address:
        return Folder(Path(address))
    from stream.archive_place import Place  # noqa: PLC0415 - pyarrow takes a while, and a folder needs none

    place = Place(address)
    return Folder(Path(place.path(""))) if place.is_local else Objects(place)


def policy_of(settings: Settings) -> Policy | None:
    """The thresholds that the settings say; None where those count that the model suggests."""
    if settings.review_at is None or settings.decline_at is None:
        return None
    return Policy(review_at=settings.review_at, decline_at=settings.decline_at)


def check_servable(settings: Settings, manifest: Manifest, features: Sequence[Feature]) -> None:
    """Raise Refused for a model that learned from other histories than workers of these settings keep."""
    said = f"{manifest.name}@{manifest.version}"
    remembered = manifest.settings["row_limit"]
    if remembered != settings.row_limit:
        raise Refused(
            f"{said} learned from histories of {remembered} orders at most and this worker keeps "
            f"{settings.row_limit}; set FRAUDSTREAM_ROW_LIMIT={remembered} or train again"
        )
    check_horizons(features, model=said, forget_after_days=settings.forget_after_days)
