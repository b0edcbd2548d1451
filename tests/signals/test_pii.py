"""What is found as personal data, and what is not: no value here is anybody's."""

import pickle
import random
import subprocess
import sys

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UsageError
from pipeline.signals.pii import HITS, KINDS, NAME_KINDS, Detector


def values(text: str, language: str | None = "en", **options) -> list[tuple[str, str]]:
    """Kind and value of each hit."""
    found = Detector(**options).find(pa.array([text]), pa.array([language], pa.string()))
    assert found.schema == HITS
    return [(hit["kind"], text[hit["start"] : hit["end"]]) for hit in found.to_pylist()]


def key(prefix: str, n: int, signs: str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") -> str:
    """A made-up key, written nowhere as a whole: scanners of repositories look for such."""
    return prefix + "".join(random.Random(n).choices(signs, k=n))


FOUND = [
    ("EMAIL_ADDRESS", "ada.lovelace@difference-engine.org", "Write to {}."),
    ("EMAIL_ADDRESS", "ada+list@mail.engine.co.uk", "mailto:{}?subject=x"),
    ("EMAIL_ADDRESS", "müller@bücher.de", "Kontakt: {}, danke"),
    ("EMAIL_ADDRESS", "ada@engine.org", "<{}>"),
    ("EMAIL_ADDRESS", "ada@engine.com", "user={}&x=1"),
    ("EMAIL_ADDRESS", "ada@engine.com", "E-mail: {}Tel: none"),
    ("EMAIL_ADDRESS", "ada@engine.org", "Ask {}.The rest follows"),
    ("EMAIL_ADDRESS", "ada [at] engine [dot] org", "Mail {} please"),
    ("EMAIL_ADDRESS", "ada (at) engine.org", "Mail {} please"),
    ("EMAIL_ADDRESS", "ada at engine dot org", "Mail {} please"),
    ("EMAIL_ADDRESS", "ada_at_engine_dot_org", "Mail {} please"),
    ("EMAIL_ADDRESS", "ada{at}engine.org", "Mail {} please"),
    ("EMAIL_ADDRESS", "ada@engine(dot)org", "Mail {} please"),
    ("EMAIL_ADDRESS", "ada @ engine.org", "Mail {} please"),
    ("EMAIL_ADDRESS", "ada@difference-<wbr>engine.org", "Mail {} please"),
    ("EMAIL_ADDRESS", "ada(@)engine.org", "Mail {} please"),
    ("EMAIL_ADDRESS", "ada.lovelace at engine.org", "Ada Lovelace {} wrote"),
    ("EMAIL_ADDRESS", "ada at engine.org", "Ada Lovelace <{}> wrote"),
    ("EMAIL_ADDRESS", "ada at engine.org", "Ada Lovelace {}\nThu Jul 2 03:41:10 PDT 2015"),
    ("PHONE_NUMBER", "(212) 555-0143", "{}"),
    ("PHONE_NUMBER", "800-555-0143", "Until five, Pacific Time.\nProvider Services\n{}"),
    ("PHONE_NUMBER", "212-555-0143", "Ada Lovelace, {}"),
    ("PHONE_NUMBER", "212.555.0143", "Ada Lovelace, {}"),
    ("PHONE_NUMBER", "212 555 0143", "Ada Lovelace, {}\n"),
    ("PHONE_NUMBER", "2125550143", "Call {} today"),
    ("PHONE_NUMBER", "1-800-555-0143", "Toll free: {}"),
    ("PHONE_NUMBER", "(212) 555-0143 ext. 12", "The desk is at {}."),
    ("PHONE_NUMBER", "+44 20 7946 0958", "London {}"),
    ("PHONE_NUMBER", "+49 (0)30 23125 001", "Berlin ({})"),
    ("PHONE_NUMBER", "+81-3-5555-0143", "Tokyo {}"),
    ("PHONE_NUMBER", "555-0143", "phone {}"),
    ("PHONE_NUMBER", "212\u2011555\u20110143", "Fax {}"),
    ("PHONE_NUMBER", "２１２-５５５-０１４３", "Fax {}"),
    ("IP_ADDRESS", "81.2.69.142", "The request came from {}."),
    ("IP_ADDRESS", "81.2.69.142", "http://{}:8080/"),
    ("IP_ADDRESS", "81.2.69.142", r"Address\tRoute\n{}\tdirect"),
    ("IP_ADDRESS", "2a02:26f0:1c:2::1f2e", "Connected to {} today"),
    ("IP_ADDRESS", "2a02:26f0:1c:2:aaaa:bbbb:cccc:1f2e", "{}"),
    ("CREDIT_CARD", "4111 1111 1111 1111", "Visa {} thanks"),
    ("CREDIT_CARD", "4111111111111111", "paid by {} thanks"),
    ("CREDIT_CARD", "3782-822463-10005", "{}"),
    ("US_SSN", "219-09-9999", "{}"),
    ("US_SSN", "219 09 9999", "SSN {}"),
    ("US_SSN", "219099999", "social security number: {}"),
    ("IBAN_CODE", "DE89 3704 0044 0532 0130 00", "IBAN {} BIC COBADEFF"),
    ("IBAN_CODE", "GB29NWBK60161331926819", "pay to {} before Friday"),
    ("IBAN_CODE", "gb29nwbk60161331926819", "pay to {} before friday"),
    ("CRYPTO", "1BoatSLRHtKNngkdXEeobR76b53LETtpyT", "BTC {}"),
    ("CRYPTO", "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", "donate: {}"),
    ("CRYPTO", "0x52908400098527886e0f7030069857d2e4169ee7", "{}"),
    ("URL_CREDENTIALS", "https://ada:b4bbage@engine.org/x", "Clone {} first"),
    ("URL_CREDENTIALS", "redis://:p4ssw0rdish@cache.engine.org:6379/0", 'url = "{}"'),
    ("API_KEY", key("AKIA", 16, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"), "id={}"),
    ("API_KEY", key("ghp_", 36), "token {}"),
    ("API_KEY", key("sk-", 48), "OPENAI={}"),
    ("API_KEY", key("sk_live_", 24), '"{}"'),
    ("API_KEY", key("AIza", 35), "?k={}&x"),
    ("API_KEY", key("xoxb-123456789012-", 24), "{}"),
    ("API_KEY", key("", 32, "0123456789abcdef"), "api_key = '{}'"),
    ("API_KEY", f"eyJhbGciOiJIUzI1NiJ9.{key('eyJ', 40)}.{key('', 43)}", "Bearer {}"),
    (
        "API_KEY",
        f"-----BEGIN RSA PRIVATE KEY-----\n{key('', 64)}\n{key('', 60)}==\n-----END RSA PRIVATE KEY-----",
        "a\n{}\nb",
    ),
]


@pytest.mark.parametrize(("kind", "value", "frame"), FOUND)
def test_finds_each_kind_with_exact_spans_whatever_stands_before(kind, value, frame):
    for before in ("", "Größe 東京 🏳️‍🌈 "):
        assert values(before + frame.replace("{}", value)) == [(kind, value)]


NOT_FOUND = [
    "Upgrade to version 81.2.69.142 now",
    "Mozilla/5.0 Chrome/91.0.4472.124 Safari/537.36",
    "See section 4.3.2.18 of the manual; 1.2.3.4 follows",
    "Router at 192.168.1.17, DNS 10.20.0.1, gateway 172.16.4.1, loopback 127.0.0.1 and ::1",
    "Documentation uses 192.0.2.44, 198.51.100.7, 203.0.113.9 and 2001:db8::77",
    "Network 81.2.69.0/24",
    "std::vector dead::beef() at 12:34:56 or a::b",
    "MAC 08:00:2b:01:02:03",
    "ISBN 978-0-306-40615-7, ISBN 0-306-40615-2, ISSN 2049-3630",
    "doi:10.1000/182.55.1234 and arXiv:1706.03762",
    "Price: $1,299.00, EUR 12.345.678,90 or 120.300.400 rupiah",
    "From 2019-05-12 to 12.05.2019, 1998-1999, 20230714123456",
    "created 1714567890, modified 1714567890123",
    "Serial no. AB12-345-6789, part 123-456-7890",
    "Order 111-2223334-5556667, invoice 20240017, ticket 4155550143",
    "Located at 40.712776, -74.005974",
    "md5 9e107d9d372bb6826bd81d3542a419d6",
    "Springfield, IL 62704-1234",
    "card 4111 1111 1111 1112",
    "9e107d\n4111111111111111c82e8a0858",
    "SSN 000-12-3456 or 666-12-3456 or 219-00-1234",
    "number 219099999 of the series",
    "IBAN DE89 3704 0044 0532 0130 01",
    "1BoatSLRHtKNngkdXEeobR76b53LETtpyU",
    "https://user:password@host/ and https://engine.org:8080/@ada",
    "api_key = YOUR_API_KEY_GOES_HERE; token: xxxxxxxxxxxxxxxxxxxxxxxx",
    "@app.route('/x'), npm i @scope/core@2.1.0, logo@2x.png, user@host:~$",
    "We met at noon, dot the i, looked at engine dot by dot",
    "123 456 7890 12.5\n234 567 8901 13.5",
    "|||EMAIL_ADDRESS||| <PHONE_NUMBER> email@example.com firstname.lastname@example.org [email protected]",
    "22.214.171.124 and 126.96.36.199 and 8.8.8.8",
    "ada@example.org, ada@engine.test, ada@localhost",
    "Read it at engine.org or look at engine.com; e.g. at engine.net, as of 10.30 at engine.io",
    "cid:image1.jpg@engine.org, Message-ID: <20150702.0341@engine.org>, extensions/talk@engine.org/chrome",
    "Call Number SFB-05872508. Contact us: 101-9751 Welch St.",
    "info@engine.org, Support@engine.org, webmaster@engine.org, sales-uk@engine.org",
    "engines-users@lists.engine.org, engines@googlegroups.com",
    "you@engine.org, firstname.lastname@engine.org, <CAO-x0YejNYY07NJ0=nVpsWRDw@mail.gmail.com>",
    "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    "",
]


@pytest.mark.parametrize("text", NOT_FOUND)
def test_leaves_what_only_looks_like_it(text):
    assert values(text) == []


def test_role_addresses_by_option():
    for address in ("info@engine.org", "engines@lists.engine.org"):
        assert values(address, role_addresses=True) == [("EMAIL_ADDRESS", address)]


@pytest.mark.parametrize("unseen", ["\u200b", "\u200d", "\ufeff", "\u00ad", "\u2060", "\u202e"])
def test_unseen_characters_hide_nothing(unseen):
    for value in ("ada.lovelace@engine.org", "(212) 555-0143", "81.2.69.142", "4111111111111111"):
        hidden = unseen.join(value)
        assert [found for _, found in values(f"日本 {hidden} ok")] == [hidden]


def test_numbers_beside_numbers():
    text = "Tel. 212-555-0143/800-555-0144, (212) 555-0145 (212) 555-0146\nFax 030/23125001/02 +49 30 23125003"
    assert [value for _, value in values(text)] == [
        "212-555-0143",
        "800-555-0144",
        "(212) 555-0145",
        "(212) 555-0146",
        "030/23125001",
        "+49 30 23125003",
    ]
    assert values("London +44 20 7946 0958 2019 12") == [("PHONE_NUMBER", "+44 20 7946 0958")]
    assert values("212-555-0143 81.2.69.142") == [("PHONE_NUMBER", "212-555-0143"), ("IP_ADDRESS", "81.2.69.142")]
    assert values("+81-3-5555-0143 4111 1111 1111 1111") == [
        ("PHONE_NUMBER", "+81-3-5555-0143"),
        ("CREDIT_CARD", "4111 1111 1111 1111"),
    ]
    assert values("from 81.2.69.142 to 81.2.69.143 - 81.2.69.144") == [
        ("IP_ADDRESS", f"81.2.69.{i}") for i in (142, 143, 144)
    ]


def test_scripts_without_spaces_and_glued_words():
    assert values("联系ada@engine.org或者电话010-62675637。", "zh") == [
        ("EMAIL_ADDRESS", "ada@engine.org"),
        ("PHONE_NUMBER", "010-62675637"),
    ]
    assert values("メールはada@engine.co.jpまで") == [("EMAIL_ADDRESS", "ada@engine.co.jp")]


@pytest.mark.parametrize(
    ("language", "number"),
    [
        ("de", "030 23125001"),
        ("fr", "01 42 68 53 00"),
        ("nl", "020-5551234"),
        ("ja", "03-5555-0143"),
        ("pl", "22 555 01 43"),
    ],
)
def test_national_numbers_need_their_language(language, number):
    text = f"Ada, {number}"
    assert values(text, language) == [("PHONE_NUMBER", number)]
    assert values(text, "ka") == []
    assert values(text, None) == []


def test_social_security_numbers_are_for_english_texts():
    assert values("219-09-9999", "de") == []
    table = Detector().find(pa.array(["SSN 219-09-9999"]))
    assert table["kind"].to_pylist() == ["US_SSN"]  # without languages, texts are English


def test_rows_nulls_slices_and_chunks():
    texts = [None, "a@engine.org", "", "none", "x b@engine.org c@engine.org", None]
    detector = Detector()
    rows = [(1, 0, 12), (4, 2, 14), (4, 15, 27)]

    def found(array, languages=None):
        return [tuple(hit.values())[:3] for hit in detector.find(array, languages).to_pylist()]

    assert found(pa.array(texts)) == rows
    assert found(pa.array(texts, pa.large_string())) == rows
    assert found(pa.array(["zz@engine.org", *texts]).slice(1), pa.array(["xx", *["en"] * 6]).slice(1)) == rows
    assert found(pa.chunked_array([texts[:3], texts[3:]])) == rows
    assert found(pa.array([], pa.string())) == []
    assert found(pa.array([None, None], pa.string())) == []
    with pytest.raises(ValueError, match="2 texts have 1 languages"):
        detector.find(pa.array(["a", "b"]), pa.array(["en"]))


def test_kinds():
    assert values("a@engine.org 81.2.69.142", kinds=["IP_ADDRESS"]) == [("IP_ADDRESS", "81.2.69.142")]
    assert values("a@engine.org", kinds=[]) == []
    with pytest.raises(ValueError, match="EMAIL_ADDRESS"):
        Detector(kinds=["E_MAIL"])
    assert not set(KINDS) & set(NAME_KINDS)


def test_pickles():
    detector = pickle.loads(pickle.dumps(Detector(kinds=["IP_ADDRESS", "EMAIL_ADDRESS"], role_addresses=True)))
    assert detector.kinds == ("EMAIL_ADDRESS", "IP_ADDRESS")
    assert detector.role_addresses


def test_names():
    detector = Detector(kinds=["PERSON", "LOCATION"])
    text = "Ada Lovelace moved from London to Paris."
    try:
        found = detector.find(pa.array([text, text, None]), pa.array(["en", "de", "en"]))
    except UsageError as error:
        assert "pip install" in str(error)
        return
    assert set(found["row"].to_pylist()) == {0}
    assert ("LOCATION", "London") in [(hit["kind"], text[hit["start"] : hit["end"]]) for hit in found.to_pylist()]


N = 5_000_000


@pytest.mark.parametrize(
    "bait",
    [
        "1" * N,
        "12 " * (N // 3),
        "212-555-0143 " * (N // 13),
        "1.2.3.4." * (N // 8),
        "@" * N,
        "a@" * (N // 2),
        "a@b.c" * (N // 5),
        "a.b@" * (N // 4),
        ":" * N,
        "a:" * (N // 2),
        "abcd::" * (N // 6),
        "://a:b" * (N // 6),
        "a" * N,
        "A1" * (N // 2),
        "sk-a1" * (N // 5),
        "eyJa1_-." * (N // 8),
        "-----BEGIN " * (N // 11),
        "-----BEGIN RSA PRIVATE KEY-----" * (N // 31),
        " at a dot " * (N // 10),
        "(at)" * (N // 4),
        "_at_" * (N // 4),
        "DE89 3704 " * (N // 10),
        "api_key=" * (N // 8),
        "\u200b" * (N // 3),
        "é1" * (N // 3),
    ],
    ids=lambda bait: repr(bait[:12]),
)
def test_long_lines_of_bait_end(bait):
    Detector().find(pa.array([bait]))


def masked(text: str, language: str | None = "en") -> str:
    """The text with each hit replaced by its kind."""
    hits = Detector().find(pa.array([text]), pa.array([language], pa.string())).to_pylist()
    for hit in reversed(hits):
        text = f"{text[: hit['start']]}<{hit['kind']}>{text[hit['end'] :]}"
    return text


def test_masks_hide_nothing_more():
    for _, value, frame in FOUND:
        once = masked(frame.replace("{}", value))
        assert value not in once
        assert masked(once) == once


pieces = st.sampled_from(
    [value for _, value, _ in FOUND]
    + [" ", "\n", ", ", ". ", "-", "call ", "ssn ", "version ", "ISBN ", "1", "555", "a", "@", ":", "é", "\u200b", "東"]
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(pieces, max_size=12).map("".join) | st.text(max_size=200), st.sampled_from(["en", "de", "zh", None]))
def test_spans_are_valid_and_apart(text, language):
    hits = Detector(role_addresses=True).find(pa.array([text]), pa.array([language], pa.string())).to_pylist()
    end = 0
    for hit in hits:
        assert end <= hit["start"] < hit["end"] <= len(text)
        assert hit["kind"] in KINDS
        assert 0 < hit["score"] <= 1
        end = hit["end"]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from([(value, frame) for _, value, frame in FOUND]), max_size=6))
def test_what_is_masked_stays_masked(rows):
    once = masked("\n\n".join(frame.replace("{}", value) for value, frame in rows))
    assert masked(once) == once


def test_texts_do_not_depend_on_their_neighbours():
    texts = [frame.replace("{}", value) for _, value, frame in FOUND] + NOT_FOUND
    detector = Detector()
    together = [tuple(hit.values()) for hit in detector.find(pa.array(texts)).to_pylist()]
    alone = [
        (row, *tuple(hit.values())[1:])
        for row, text in enumerate(texts)
        for hit in detector.find(pa.array([text])).to_pylist()
    ]
    assert together == alone


def test_importing_it_is_cheap():
    code = (
        "import sys, pipeline.signals.pii as p; p.Detector();"
        "print({'presidio_analyzer', 'numba', 'spacy'} & {*sys.modules})"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
    code = (
        "import sys, pyarrow as pa, pipeline.signals.pii as p; p.Detector().find(pa.array(['ada@engine.org']));"
        "print({'pandas', 'torch', 'transformers'} & {*sys.modules})"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
