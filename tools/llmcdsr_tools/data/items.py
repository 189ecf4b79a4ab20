"""The items of the wanted domains, from a source of their own or from what the interactions say of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from llmcdsr_lite.bundle.config import MAX_DOMAINS
from llmcdsr_lite.errors import DataError
from llmcdsr_tools.data.sources import FILE, RECORD, REJECT, Opened, listing, literal
from llmcdsr_tools.data.workspace import HEADER_AGAIN, NUL, OURS, Workspace, empty

ONLY_DOMAIN = "items"  # where nothing names one
READ = "workspace.main.items_read"
ITEMS = "workspace.main.items"
"""Table of all items: id, domain, and `code`, NULL in domains that are not wanted."""

_CHECKED = "workspace.main.items_checked"
_ITEM, _DOMAIN, _TITLE = OURS["item"], OURS["domain"], OURS["title"]


@dataclass(frozen=True)
class ItemTable:
    """The items, domain after domain; each item's code is its position.

    Parameters
    ----------
    ids, titles : list of str
        Id and title of every item; a title of white space is made empty.
    domains : tuple of str
        Names of the domains.
    stops : tuple of int
        Of each domain, the code after that of its last item.
    n_others : int
        Items of domains that are not wanted.
    """

    ids: list[str]
    titles: list[str]
    domains: tuple[str, ...]
    stops: tuple[int, ...]
    n_others: int = 0


def items_of_events(workspace: Workspace, events: str, columns: Mapping[str, str]) -> None:
    """Make the table `READ` of what interactions say: each item with the first title that comes with it."""
    domain = _DOMAIN if _DOMAIN in columns else "NULL::VARCHAR"
    title = (
        f"first({_TITLE} ORDER BY {RECORD}) FILTER (NOT blank({_TITLE}))"
        if _TITLE in columns
        else "NULL::VARCHAR"
    )
    group = f"{_ITEM}, {_DOMAIN}" if _DOMAIN in columns else _ITEM
    workspace.connection.execute(
        f"CREATE TABLE {READ} AS SELECT {_ITEM}, {domain} AS {_DOMAIN}, {title} AS {_TITLE}, "
        f"min({RECORD}) AS {RECORD}, NULL::VARCHAR AS {REJECT} FROM {events} "
        f"WHERE {REJECT} IS NULL AND NOT blank({_ITEM}) GROUP BY {group} ORDER BY {RECORD}"
    )


def number_items(workspace: Workspace, opened: Opened, columns: Mapping[str, str]) -> ItemTable:
    """Check the items in the table `READ`, choose the domains and number their items, in the table `ITEMS`.

    Parameters
    ----------
    workspace : Workspace
    opened : Opened
        Where the items come from.
    columns : mapping of str to str
        Columns that the source has, and their types.

    Raises
    ------
    DataError
        If an item cannot be taken and none is to be skipped, or a domain has no item.
    """
    domain = _DOMAIN if _DOMAIN in columns else literal(ONLY_DOMAIN)
    if _TITLE not in columns:
        workspace.notes.append(f"{opened.name}: no column of titles: the items have no text to be found by")
    title = f"CASE WHEN blank({_TITLE}) THEN '' ELSE {_TITLE} END" if _TITLE in columns else "''"
    file = f", {FILE}" if FILE in _columns(workspace) else ""
    again = workspace.header_again(opened, {"item": _ITEM, "domain": domain})
    workspace.connection.execute(
        f"""
        CREATE TABLE {_CHECKED} AS SELECT *,
            CASE WHEN {REJECT} IS NOT NULL THEN {REJECT}
                WHEN {again} THEN {HEADER_AGAIN}
                WHEN blank({_ITEM}) THEN {empty("the item id", columns[_ITEM])}
                WHEN contains({_ITEM} || {_TITLE}, chr(0)) THEN {NUL}
                WHEN blank({_DOMAIN}) THEN 'the domain is empty'
                WHEN first = {RECORD} THEN NULL
                WHEN first_domain = {_DOMAIN} THEN 'item ' || shown({_ITEM}) || ' is listed twice'
                ELSE 'item ' || shown({_ITEM}) || ' is in two domains' END AS problem
        FROM (SELECT {_ITEM}, {domain} AS {_DOMAIN}, {title} AS {_TITLE}, {RECORD}, {REJECT}{file},
            min({RECORD}) OVER (PARTITION BY {_ITEM}) AS first,
            arg_min({domain}, {RECORD}) OVER (PARTITION BY {_ITEM}) AS first_domain FROM {READ})
        """
    )
    workspace.take_out_problems(opened, _CHECKED, "CASE WHEN problem LIKE 'item ''%' THEN first ELSE 0 END")
    names = _choose_domains(workspace, opened)
    place = f"list_position([{', '.join(map(literal, names))}], {_DOMAIN})"
    workspace.connection.execute(
        f"""
        CREATE TABLE {ITEMS} AS SELECT {_ITEM}, {_DOMAIN}, {_TITLE}, {place} AS place,
            CASE WHEN place IS NOT NULL
                THEN row_number() OVER (ORDER BY {place} NULLS LAST, {RECORD}) - 1 END AS code
        FROM {_CHECKED} WHERE problem IS NULL
        """
    )
    rows = workspace.connection.execute(
        f"SELECT {_ITEM}, {_TITLE}, place FROM {ITEMS} WHERE code IS NOT NULL ORDER BY code"
    ).fetchall()
    ids, titles, places = map(list, zip(*rows, strict=True))
    stops = np.cumsum(np.bincount(np.array(places) - 1, minlength=len(names)))
    n_others = workspace.number(f"SELECT count(*) FROM {ITEMS} WHERE code IS NULL")
    return ItemTable(ids, titles, names, tuple(stops.tolist()), n_others)


def _columns(workspace: Workspace) -> set[str]:
    return {row[0] for row in workspace.connection.execute(f"DESCRIBE {READ}").fetchall()}


def _choose_domains(workspace: Workspace, opened: Opened) -> tuple[str, ...]:
    """Names of the domains: those asked for, or all with enough items, in order of appearance."""
    settings = workspace.settings
    counted = workspace.connection.execute(
        f"SELECT {_DOMAIN}, count(*) FROM {_CHECKED} WHERE problem IS NULL "
        f"GROUP BY {_DOMAIN} ORDER BY min({RECORD})"
    ).fetchall()
    sizes = dict(counted)
    for name in settings.domains or ():
        if name not in sizes:
            others = f"; found {listing(list(sizes)[:20])}" if sizes else ""
            raise DataError(f"{opened.name}: no item of domain {name!r}{others}")
    if settings.domains is not None:
        return settings.domains
    if not sizes:
        raise DataError(
            f"{opened.name}: no items" + (" after the header" if opened.kind in ("csv", "tsv") else "")
        )
    names = tuple(name for name, n_items in counted if n_items >= settings.min_items)
    if not names:
        raise DataError(f"{opened.name}: no domain has {settings.min_items} items; lower min_items")
    if len(names) > MAX_DOMAINS:
        raise DataError(
            f"{opened.name}: {len(names):,} domains, expected at most {MAX_DOMAINS}; name those to keep in "
            "domains, or raise min_items"
        )
    return names
