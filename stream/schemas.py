"""The contracts as JSON Schemas, for shops that are not written in Python."""

import json
from typing import Any

from pydantic import BaseModel

from features.events import contracts
from models.decision import Decision

__all__ = ["schemas"]


def schemas() -> dict[str, str]:
    """File name -> the schema's text, for every contract that goes in or comes out."""
    known: dict[str, type[BaseModel]] = {**contracts(), "Decision": Decision}
    return {f"{_file_name(name)}.v1.json": _text(name, contract) for name, contract in known.items()}


def _text(name: str, contract: type[BaseModel]) -> str:
    schema: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": name,
        **contract.model_json_schema(mode="serialization" if name == "Decision" else "validation"),
    }
    return json.dumps(schema, indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def _file_name(name: str) -> str:
    """`OrderEvent` is `order-event`."""
    return "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("-")
