"""The canonical form of an address: two addresses with one form are taken for one page."""

from functools import lru_cache

from courlan import normalize_url

from pipeline.dedup.repeats import text_number


@lru_cache(maxsize=4096)
def canonical_url(url: str) -> str:
    """The address without scheme, default port, fragment and parameters that only track or name a session, its query
    sorted, as courlan has it. An address that cannot be taken apart stands for itself."""
    try:
        normal = normalize_url(url.partition("#")[0])
    except (ValueError, TypeError):
        return url
    rest = normal.partition("://")[2] or normal
    return rest.rstrip("/") if rest.count("/") == 1 else rest


def address_number(url: str | None, doc_id: str) -> int:
    """A 64-bit number of the canonical address; of the page itself where it has no address."""
    return text_number(canonical_url(url), "url") if url else text_number(doc_id, "page")
