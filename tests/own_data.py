"""The files of ../shared/data that hold orders, each with its mapping in tests/mappings."""

from pathlib import Path

DATA = Path(__file__).parents[2] / "shared" / "data"
MAPPINGS = Path(__file__).parent / "mappings"

FILES = {
    "handbook": "hb_tx_2018-06-11_2018-08-14.csv.gz",
    "evalml": "evalml_fraud_transactions.csv.gz",
    "sffsd": "sffsd.csv.gz",
    "fraudecom": "fraudecom_first51689.csv.gz",
    "skrub": "skrub_credit_fraud.zip",
    "retail": "retail_db_orders.csv.gz",
    "afd": "afd_transaction_data_2K_coldstart.csv.gz",
    "ms": "ms_online_store_fraud_only.csv.gz",
}
"""Mapping -> file. The other two files hold features and countries, and no orders."""

ROWS = {
    "handbook": 622_892, "evalml": 99_992, "sffsd": 77_881, "fraudecom": 51_689, "skrub": 92_790,
    "retail": 68_883, "afd": 1_611, "ms": 8_640,
}  # fmt: skip


def mapping_file(name: str) -> Path:
    """The mapping's TOML."""
    return MAPPINGS / f"{name}.toml"


def data_file(name: str) -> Path:
    """The file that the mapping is for."""
    return DATA / FILES[name.partition("-")[0]]
