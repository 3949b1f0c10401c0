"""Models that come from elsewhere: bundles of another registry."""

from collections.abc import Iterator

from models.bundle import unpack
from models.errors import RegistryError
from models.registry import Registry

__all__ = ["publish_bundle"]


def publish_bundle(registry: Registry, content: bytes, *, sign: bool) -> Iterator[tuple[str, bool]]:
    """Publish each version of a bundle, submodels first: `name@version`, and whether it is new here.

    Raises RegistryError where one would not load; those before it stay, and are whole.
    """
    versions: dict[tuple[str, str], dict[str, bytes]] = {}
    for path, file in unpack(content).items():
        name, version, what = path.split("/")
        versions.setdefault((name, version), {})[what] = file
    refused: dict[tuple[str, str], RegistryError] = {}
    while versions:
        before = len(versions)
        for each in list(versions):
            try:
                is_new = registry.adopt(*each, versions[each], sign=sign)
            except RegistryError as error:  # perhaps a submodel of it comes later
                refused[each] = error
            else:
                del versions[each]
                yield "@".join(each), is_new
        if len(versions) == before:
            raise refused[next(iter(versions))]
