"""Dumps of MediaWiki to documents: one for each page of the article namespace."""

import re
from collections.abc import Iterator
from urllib.parse import quote

from pipeline.sources.archive import Damage, Skipped
from pipeline.sources.documents import INFLATED, STREAM, Document, moment, sha1
from pipeline.sources.reading import REDIRECT
from pipeline.sources.wikipedia import Account, DumpSplit, Page, located

Item = Document | Damage | Skipped

OTHER_NAMESPACE = "other_namespace"
"""What pages of templates, categories, discussions and so on are counted as."""

_FLAWS = {"file": (), "stream": (STREAM,), "inflated": (INFLATED,)}

PROJECTS = {
    "wiki": "wikipedia", "wiktionary": "wiktionary", "wikibooks": "wikibooks", "wikinews": "wikinews",
    "wikiquote": "wikiquote", "wikisource": "wikisource", "wikiversity": "wikiversity", "wikivoyage": "wikivoyage",
}  # fmt: skip
"""Domain of a project by the ending of a database's name (https://meta.wikimedia.org/wiki/Special:SiteMatrix)."""

_DATABASE = re.compile(rf"([a-z][a-z0-9_]*?)({'|'.join(PROJECTS)})\Z")
_WIKIMEDIA = frozenset({"commons", "meta", "species", "incubator"})


def page_url(title: str, wiki: str) -> str | None:
    """Address of a page, by the name of its wiki's database (enwiki) or the host; None where neither is known."""
    database = _DATABASE.match(wiki)
    if database:
        name = database[1].replace("_", "-")
        host = f"{name}.wikimedia.org" if name in _WIKIMEDIA else f"{name}.{PROJECTS[database[2]]}.org"
    elif "." in wiki:
        host = wiki
    else:
        return None
    # MediaWiki leaves these characters as they are (wfUrlencode).
    return f"https://{host}/wiki/{quote(title.replace(' ', '_'), safe=';@$!*(),/:~')}"


def read_pages(split: DumpSplit, max_bytes: int) -> Iterator[Item]:
    """The pages that begin in a split, redirects among them. Of the wikitext no more than `max_bytes` + 1 bytes are kept.

    Raises InputError where reading stops.
    """
    account = Account()
    for page, place in located(split, account):
        while account.damages:
            yield _damage(account)
        yield _document(page, split, place.offset, place.length, _FLAWS[place.of], max_bytes)
    while account.damages:
        yield _damage(account)
    for _ in range(account.other_namespaces):
        yield Skipped(OTHER_NAMESPACE, split.start, 0)


def _damage(account: Account) -> Damage:
    damage = account.damages.pop(0)
    return Damage(damage.path, damage.offset, damage.length, damage.reason)


def _document(page: Page, split: DumpSplit, at: int, length: int, flaws: tuple[str, ...], max_bytes: int) -> Document:
    content = page.text.encode("utf-8", "surrogatepass")
    try:
        when = moment(page.timestamp)
    except ValueError:
        when, flaws = None, (*flaws, "date_malformed")
    return Document(
        file=split.path,
        offset=at,
        length=length,
        record_type="page",
        form="wikitext",
        content=content[: max_bytes + 1],
        n_content=len(content),
        digest=sha1(content),
        record_id=f"{page.wiki}:{page.page_id}:{page.revision_id}",
        url=page_url(page.title, page.wiki),
        date=when,
        title=page.title,
        wiki=page.wiki,
        gates=(REDIRECT,) if page.redirect is not None else (),
        flaws=flaws,
    )
