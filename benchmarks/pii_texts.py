"""The texts of `benchmarks/pii.py`: labelled sets, made-up texts with seeded values, pages of the sample crawl.

Names of texts are set and row (from 0), form and number, or file and offset. No value of the labelled sets stands here.
"""

import gzip
import hashlib
import json
import os
import random
import re
import string
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import phonenumbers

from benchmarks.pii_peer import Hit
from pipeline.extraction import extract
from pipeline.signals.language import identify
from pipeline.signals.pii import KINDS
from pipeline.sources.archive import read_archive
from pipeline.sources.charset import decode_text
from pipeline.sources.http import decode_body
from pipeline.sources.records import Record

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("CRAWLMILL_DATA", ROOT.parent / "shared" / "data"))
SETS = {
    "contextual": "ambientmeta_contextual",
    "standard": "ambientmeta_standard",
    "large": "presidio_research_generated_large",
    "synth": "presidio_research_synth_v2",
}
SAME = {"EMAIL": "EMAIL_ADDRESS", "PHONE": "PHONE_NUMBER", "SSN": "US_SSN", **{kind: kind for kind in KINDS}}
LEFT_OUT = {
    "names and places, an option that needs a model": [
        "PERSON",
        "ORGANIZATION",
        "LOCATION",
        "ADDRESS",
        "STREET_ADDRESS",
        "GPE",
        "ZIP_CODE",
        "NRP",
        "TITLE",
        "PREFIX",
        "AGE",
    ],
    "no kind of ours": ["DATE_TIME", "US_DRIVER_LICENSE", "MRN", "NPI"],
    "URLs without credentials": ["DOMAIN_NAME"],
}

UNLABELLED = {
    "standard:1": [Hit(19, 30, "US_SSN")],
    "standard:2": [Hit(98, 140, "CRYPTO")],
    "standard:11": [Hit(70, 112, "CRYPTO")],
    "standard:32": [Hit(77, 119, "CRYPTO")],
    "standard:52": [Hit(69, 84, "CREDIT_CARD")],
    "standard:57": [Hit(29, 71, "CRYPTO")],
    "standard:70": [Hit(223, 265, "CRYPTO")],
    "standard:86": [Hit(177, 219, "CRYPTO")],
    "standard:100": [Hit(81, 92, "US_SSN")],
    "standard:113": [Hit(233, 244, "US_SSN")],
    "standard:160": [Hit(77, 86, "US_SSN")],
    "standard:172": [Hit(221, 263, "CRYPTO")],
    "standard:184": [Hit(337, 345, "PHONE_NUMBER")],
    "standard:188": [Hit(101, 115, "IP_ADDRESS")],
    "standard:189": [Hit(71, 85, "IP_ADDRESS"), Hit(114, 128, "IP_ADDRESS")],
    "standard:192": [Hit(72, 85, "IP_ADDRESS")],
    "standard:193": [Hit(166, 178, "IP_ADDRESS"), Hit(183, 196, "IP_ADDRESS")],
    "standard:194": [Hit(72, 87, "IP_ADDRESS")],
    "standard:195": [Hit(104, 118, "IP_ADDRESS"), Hit(123, 135, "IP_ADDRESS")],
    "standard:198": [Hit(184, 198, "IP_ADDRESS")],
    "standard:199": [Hit(111, 124, "IP_ADDRESS"), Hit(127, 140, "IP_ADDRESS")],
    "standard:200": [Hit(69, 82, "IP_ADDRESS")],
    "standard:202": [Hit(118, 155, "IP_ADDRESS")],
    "standard:203": [Hit(91, 103, "IP_ADDRESS"), Hit(105, 117, "IP_ADDRESS")],
    "standard:212": [Hit(291, 306, "IP_ADDRESS")],
    "standard:213": [Hit(74, 87, "IP_ADDRESS")],
    "standard:215": [Hit(260, 274, "IP_ADDRESS")],
    "standard:217": [Hit(255, 267, "IP_ADDRESS")],
    "standard:220": [Hit(311, 324, "IP_ADDRESS")],
    "standard:221": [Hit(35, 47, "IP_ADDRESS"), Hit(52, 66, "IP_ADDRESS")],
}
"""PII that the labelled sets forgot, among what any contender finds there, read one by one: addresses (of machines) in
texts whose other values are labelled, wallets, tax numbers of persons, which in the US are SSNs, a card, a telephone, one
SSN given twice.
Passport, licence, account and device numbers of nine or fifteen digits are none of our kinds, and not here."""

UNSOUND = {
    "large:591": [Hit(50, 62, "IP_ADDRESS")],  # private: names no machine to anybody outside
    "standard:157": [Hit(113, 124, "US_SSN")],  # begins with 9: such numbers are not given out
    "standard:160": [Hit(66, 75, "US_SSN")],  # the same
}
"""Labels that are not what they say."""


class Text(NamedTuple):
    """A text with its labels as hits; `other` are labels of types that no kind stands for."""

    name: str
    text: str
    gold: list[Hit]
    other: list[Hit]
    language: str = "en"


def labelled() -> list[Text]:
    """The four sets, in one shape."""
    texts = []
    skipped = {name for names in LEFT_OUT.values() for name in names}
    for short, name in SETS.items():
        path = DATA / "labelled/pii" / f"{name}.jsonl.gz"
        if not path.exists():
            raise SystemExit(f"{path.name} is not there (set CRAWLMILL_DATA)")
        for row, line in enumerate(gzip.decompress(path.read_bytes()).decode().splitlines()):
            entry = json.loads(line)
            spans = entry.get("spans", entry.get("annotations"))
            first, last = ("start_position", "end_position") if "spans" in entry else ("start", "end")
            hits = [Hit(span[first], span[last], span["entity_type"]) for span in spans]
            strange = {hit.kind for hit in hits} - skipped - set(SAME)
            if strange:
                raise SystemExit(f"{short}:{row} has labels of unknown types: {strange}")
            texts.append(
                Text(
                    f"{short}:{row}",
                    entry.get("full_text", entry.get("text")),
                    [hit._replace(kind=SAME[hit.kind]) for hit in hits if hit.kind in SAME],
                    [hit for hit in hits if hit.kind not in SAME],
                )
            )
    return texts


# Made-up texts


BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
FIRST = ["maria", "jonas", "priya", "ahmed", "lena", "tomas", "grace", "yuki", "pavel", "ines", "oliver", "nadia"]
LAST = [
    "hartwell",
    "okafor",
    "lindqvist",
    "moreau",
    "castellano",
    "novak",
    "whitfield",
    "tanaka",
    "ferreira",
    "dlamini",
]
HOSTS = ["brightmeadow", "quillworks", "northharbor", "tinkerloft", "saltmarsh", "cedarpost", "pixelbarn", "oakandiron"]
DOMAINS = ["com", "org", "net", "edu", "de", "co.uk", "io", "fr"]


class Draw(random.Random):
    """Random values of every kind, from one seed."""

    def digits(self, shape: str) -> str:
        """The shape with each # a digit and each @ a capital letter."""
        fill = {"#": string.digits, "@": string.ascii_uppercase}
        return "".join(self.choice(fill[sign]) if sign in fill else sign for sign in shape)

    def fill(self, pattern: str) -> str:
        """The pattern of look-alikes with its places filled."""
        names = {"host": HOSTS, "first": FIRST, "last": LAST}
        alphabets = {"d": string.digits, "h": "0123456789abcdef", "A": string.ascii_uppercase}

        def value(place: re.Match[str]) -> str:
            inside = place[1]
            if inside.startswith("<"):
                return str(self.randrange(1, int(inside[1:])))
            if inside == "card":
                number = self.card("4", (16,), "")
                return number[:-1] + str((int(number[-1]) + 1) % 10)
            return (
                self.choice(names[inside]) if inside in names else self.chars(int(inside[:-1]), alphabets[inside[-1]])
            )

        return re.sub(r"\{(<\d+|\d+[dhA]|card|host|first|last)\}", value, pattern)

    def chars(self, n: int, alphabet: str = string.ascii_letters + string.digits) -> str:
        """`n` random characters."""
        return "".join(self.choices(alphabet, k=n))

    def mailbox(self, shape: str) -> str:
        """An address, or what stands for one, of that shape."""
        names = {"f": self.choice(FIRST), "l": self.choice(LAST), "h": self.choice(HOSTS), "n": str(self.randrange(99))}
        return shape.format(d=self.choice(DOMAINS), t=self.choice(("com", "org", "net")), **names)

    def nanp(self, shape: str) -> str:
        """A US number by its parts a, b and c, valid by its area and exchange."""
        while True:
            parts = {"a": self.digits("###"), "b": self.digits("###"), "c": self.digits("####")}
            if phonenumbers.is_valid_number(phonenumbers.parse("+1" + "".join(parts.values()))):
                return shape.format(**parts)

    def phone(self, shape: str, region: str) -> str:
        """A number valid in that region, in that shape."""
        while True:
            number = self.digits(shape)
            if phonenumbers.is_valid_number(phonenumbers.parse(number.replace("(0)", ""), region)):
                return number

    def ipv4(self) -> str:
        """A public address."""
        while True:
            address = ip_address(self.getrandbits(32))
            if address.is_global and not address.is_multicast:
                return str(address)

    def ipv6(self, compressed: bool) -> str:
        """A public address, in full or with its zeros left out."""
        address = ip_address(
            (0x2A02 << 112) | (self.getrandbits(32) << 80) | self.getrandbits(16 if compressed else 80)
        )
        return str(address) if compressed else address.exploded

    def card(self, prefix: str, groups: Sequence[int], join: str) -> str:
        """A number with a valid check digit, in groups."""
        body = prefix + self.chars(sum(groups) - len(prefix) - 1, string.digits)
        number = body + next(last for last in string.digits if luhn(body + last))
        cuts = [sum(groups[:i]) for i in range(len(groups) + 1)]
        return join.join(number[a:b] for a, b in pairwise(cuts))

    def ssn(self, shape: str) -> str:
        """A number in the ranges that are given out."""
        area = self.choice([*range(1, 666), *range(667, 900)])
        return shape.format(a=f"{area:03}", b=f"{self.randrange(1, 100):02}", c=f"{self.randrange(1, 10000):04}")

    def iban(self, country: str, shape: str, grouped: bool) -> str:
        """An account with valid check digits."""
        account = self.digits(shape)
        check = 98 - int("".join(str(int(sign, 36)) for sign in account + country + "00")) % 97
        number = f"{country}{check:02}{account}"
        return " ".join(number[i : i + 4] for i in range(0, len(number), 4)) if grouped else number

    def base58(self, version: int) -> str:
        """A Bitcoin address with its checksum."""
        payload = bytes([version]) + self.randbytes(20)
        payload += hashlib.sha256(hashlib.sha256(payload).digest()).digest()[:4]
        number, text = int.from_bytes(payload, "big"), ""
        while number:
            number, rest = divmod(number, 58)
            text = BASE58[rest] + text
        return "1" * (len(payload) - len(payload.lstrip(b"\0"))) + text

    def bech32(self, version: int) -> str:
        """A segwit address; version 0 of 20 bytes, version 1 of 32 bytes (BIP 173, BIP 350)."""
        program = self.getrandbits(160 if version == 0 else 256) << (0 if version == 0 else 4)
        n = 32 if version == 0 else 52
        data = [version, *((program >> 5 * (n - 1 - i)) & 31 for i in range(n))]
        check = polymod([3, 3, 0, 2, 3, *data, 0, 0, 0, 0, 0, 0]) ^ (1 if version == 0 else 0x2BC830A3)
        return "bc1" + "".join(BECH32[five] for five in [*data, *((check >> 5 * (5 - i)) & 31 for i in range(6))])


def polymod(values: Sequence[int]) -> int:
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for i, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            check ^= generator if (top >> i) & 1 else 0
    return check


def luhn(number: str) -> bool:
    doubled = (sum(divmod(int(digit) * (1 + i % 2), 10)) for i, digit in enumerate(reversed(number)))
    return sum(doubled) % 10 == 0


PLAIN = ("Write to {} before Friday.", "{}", "Maria keeps the list; {}, second floor", "Details: {}\nThank you.")
ARCHIVE = (
    "Maria Hartwell {}\nThu Jul 2 03:41:10 PDT 2015",
    "On Mon, Jul 6, 2015 at 3:29 PM, Maria Hartwell <{}> wrote:",
    "> From: users [mailto:{}] On behalf of Maria",
    "> users mailing list\n> {}\n> http://lists.example.org/",
)
CALL = ("Call {} for details.", "Lena Novak, {}", "Fax: {}\nRoom 4", "The office ({}) opens at nine.")
NATIONAL = {
    "de": ("Sie erreichen uns unter {} von Montag bis Freitag.", "Telefon: {}\nStuttgart", "Praxis am Markt, {}"),
    "fr": ("Vous pouvez nous joindre au {} pendant la semaine.", "Tél. : {}\nLyon", "Boulangerie du Pont, {}"),
    "nl": ("Wij zijn bereikbaar op {} tijdens kantooruren.", "Telefoon: {}\nUtrecht", "Bakkerij de Molen, {}"),
    "es": ("Puede llamarnos al {} por las mañanas.", "Teléfono: {}\nMadrid", "Panadería del Puente, {}"),
    "it": ("Potete chiamarci al numero {} ogni mattina.", "Tel. {}\nRoma", "Panificio del Ponte, {}"),
    "ja": ("お問い合わせは{}までお電話ください。", "電話:{}\n東京都", "株式会社さくら {}"),
    "pt": ("Pode ligar para {} durante a manhã.", "Telefone: {}\nSão Paulo", "Padaria da Ponte, {}"),
    "ru": ("Звоните по номеру {} в рабочие дни.", "Телефон: {}\nМосква", "Булочная у моста, {}"),
    "pl": ("Prosimy dzwonić pod numer {} od poniedziałku.", "Telefon: {}\nWarszawa", "Piekarnia przy moście, {}"),
    "en": ("You can reach the parish office on {} most days.", "Telephone: {}\nLeeds", "Bridge Bakery, {}"),
}
MAILBOXES = {
    "plain": "{f}.{l}@{h}.{d}",
    "short": "{f}{n}@{h}.{d}",
    "plus tag, subdomain": "{f}+news{n}@mail.{h}.{d}",
    "zero width inside": "{f}.{l}\u200b@{h}.{d}",
    "wide @": "{f}.{l}\uff20{h}.{d}",
    "[at] [dot]": "{f}.{l} [at] {h} [dot] {t}",
    "(at) and dots": "{f}.{l} (at) {h}.{t}",
    "at, dot in words": "{f} at {h} dot {t}",
    "AT, DOT in capitals": "{f}{l} AT {h} DOT {t}",
    "(dot) only": "{f}@{h}(dot){t}",
    "{at} without spaces": "{f}{{at}}{h}.{t}",
    "_at_ _dot_": "{f}_at_{h}_dot_{t}",
}
US_PHONES = {
    "(a) b-c": "({a}) {b}-{c}",
    "(a)b-c": "({a}){b}-{c}",
    "a-b-c": "{a}-{b}-{c}",
    "a.b.c": "{a}.{b}.{c}",
    "a b c": "{a} {b} {c}",
    "abc": "{a}{b}{c}",
    "a/b-c": "{a}/{b}-{c}",
    "a‑b‑c, U+2011": "{a}\u2011{b}\u2011{c}",
    "(a) b–c, en dash": "({a}) {b}\u2013{c}",
    "1-a-b-c": "1-{a}-{b}-{c}",
    "+1 (a) b-c": "+1 ({a}) {b}-{c}",
    "+1abc": "+1{a}{b}{c}",
    "a-b-c ext. n": "{a}-{b}-{c} ext. 214",
}
ABROAD = {
    "GB": "+44 20 7### ####",
    "DE": "+49 (0)30 #######",
    "FR": "+33 1 42 ## ## ##",
    "NL": "+31 20 ### ####",
    "ES": "+34 91 ### ## ##",
    "IT": "+39 06 #### ####",
    "JP": "+81-3-3###-####",
    "BR": "+55 (11) 9####-####",
    "IN": "+91 98### #####",
    "AU": "+61 2 9### ####",
}
AT_HOME = {
    "de": ("DE", "030/#######"),
    "fr": ("FR", "01 42 ## ## ##"),
    "nl": ("NL", "020-#######"),
    "es": ("ES", "91 ### ## ##"),
    "it": ("IT", "06 #### ####"),
    "ja": ("JP", "03-3###-####"),
    "pt": ("BR", "(11) 9####-####"),
    "ru": ("RU", "8 (495) ###-##-##"),
    "pl": ("PL", "22 ### ## ##"),
    "en": ("GB", "020 7### ####"),
}
IBANS = {
    "DE": "#" * 18,
    "GB": "@@@@" + "#" * 14,
    "NL": "@@@@" + "#" * 10,
    "AT": "#" * 16,
    "CH": "#" * 17,
    "SE": "#" * 20,
}
KEYS = {
    "AWS access key": lambda d: "AKIA" + d.chars(16, string.ascii_uppercase + "234567"),
    "GitHub token": lambda d: "ghp_" + d.chars(36),
    "GitLab token": lambda d: "glpat-" + d.chars(20),
    "Slack token": lambda d: f"xoxb-{d.digits('#' * 12)}-{d.digits('#' * 12)}-{d.chars(24)}",
    "Google API key": lambda d: "AIza" + d.chars(35),
    "Stripe secret": lambda d: "sk_live_" + d.chars(24),
    "OpenAI key": lambda d: "sk-proj-" + d.chars(48),
    "SendGrid key": lambda d: f"SG.{d.chars(22)}.{d.chars(43)}",
    "npm token": lambda d: "npm_" + d.chars(36),
    "JSON web token": lambda d: f"eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJ{d.chars(40)}.{d.chars(43)}",
}
CREDENTIALS = {
    "https": lambda d: f"https://{d.choice(FIRST)}:{d.chars(10)}@{d.choice(HOSTS)}.com/files",
    "ftp": lambda d: f"ftp://{d.choice(LAST)}:{d.chars(8)}@ftp.{d.choice(HOSTS)}.net/",
    "database": lambda d: f"postgres://app:{d.chars(12)}@db.{d.choice(HOSTS)}.io:5432/main",
    "password only": lambda d: f"redis://:{d.chars(16)}@cache.{d.choice(HOSTS)}.io:6379/0",
}
LOOK_ALIKES = {
    "version numbers": "Upgrade to version {<9}.{<20}.{<20}.{<99} (was v{<9}.{<9}.{<9}.{<9}).",
    "section numbers": "See section {<9}.{<9}.{<9}.{<30} of the manual.",
    "ISBN": "ISBN 978-0-{3d}-{5d}-{1d} and ISBN 0-{3d}-{5d}-{1d}, ISBN-10: {10d}",
    "ISSN, EAN": "ISSN {4d}-{4d}; EAN 5{12d}",
    "DOI": "doi:10.1093/{4d}/{3d}.{2d}.{4d} and https://doi.org/10.1016/S0140-6736({2d}){5d}-{1d}",
    "prices": "Was $1,{3d}.{2d}, now EUR 12.{3d},{2d} or {3d}.{3d}.{3d} rupiah; lots of 100-200-3000",
    "dates": "From 20{2d}-0{<10}-1{1d} to {<28}.{<12}.20{2d}, seasons 1998-1999, 2001/2002",
    "timestamps": "created 17{8d}, modified 17{11d}, taken 20230714{6d}",
    "serial numbers": "Serial no. {2A}{2d}-{3d}-{2d}, part {3d}-{3d}-{4d}, S/N {12d}",
    "order numbers": "Order {3d}-{7d}-{7d} shipped; invoice {8d}, ticket #{10d}",
    "bug numbers": "Bug {6d}: crash at 0x{8h} (comment {2d}, r{5d})",
    "private IPs": "Set the router to 192.168.{<256}.{<255}, DNS 10.{<256}.0.1, gateway 172.16.0.{<255}",
    "documentation, local IPs": "on 127.0.0.1 or ::1, not 0.0.0.0; as 192.0.2.{<255}, 2001:db8::{<99}, mask 255.255.255.0",
    "coordinates": "4{1d}.{6d}, -12{1d}.{6d} (4{1d}°2{1d}′1{1d}″N 12{1d}°3{1d}′2{1d}″W)",
    "hashes": "md5 {32h}, sha1 {40h}\nsha256 {64h}",
    "commits, builds": "commit {7d}, build {16d}-{4d}",
    "UUID, MAC": "{8h}-{4d}-4{3d}-9{3d}-{12d} on {2h}:{2h}:{2h}:{2h}:{2h}:{2h}",
    "card but for its check digit": "batch {card} passed",
    "ZIP codes": "Springfield, IL 6{4d}-{4d} or PO Box {4d}, 75 {3d} Paris",
    "times": "Open 10:00-18:30, run took 1:2{1d}:3{1d}.{3d}; ratio 16:9, verse 3:16-4:{2d}",
    "number tables": "{3d} {3d} {4d} {2d}.{1d}\n{3d} {3d} {4d} {2d}.{1d}\n{3d} {3d} {4d} {2d}.{1d}",
    "sums": "{3d} - {2d} - {4d} = -{4d}; 555+{3d}+{4d}",
    "code with @": "@app.route('/x')\nnpm i @{host}/core@2.{<9}.0 logo@2x.png @media print user@host:~$",
    "C++, clocks": "std::vector::{last} a::b::c at 12:{2d}:{2d} dead::beef() Foo::Bad::add",
    "at and dot in prose": "We met at noon dot the i, looked at {host} dot by dot; she stood at the dot on the map.",
    "at a host in prose": "Read it at {host}.com, look at {host}.org; it is hosted at {host}.io, with a copy at {host}.net.",
    "message ids, paths": "cid:image1.jpg@01D4{4d}.784AC380 mid:CA{8h}Z_{6h}@mail.{host}.com, extensions/x@{host}.org/chrome",
    "call and docket numbers": "Call Number SFB-{8d}. Contact us: 101-{4d} Welch St. Petition #: 09-{5d}, number 0540-{7d}",
    "handles": "Follow @{first}_{last} and u/{last}{<99}, $PATH, #{6d}",
    "URLs with digits": "https://shop.test/p/{10d}?id={3d}-{3d}-{4d}&t=17{8d}",
    "already masked": "<EMAIL_ADDRESS> email@example.com, firstname.lastname@example.org |||PHONE_NUMBER||| 22.214.171.124",
    "template keys": "api_key = YOUR_API_KEY; token: xxxxxxxxxxxxxxxxxxxx; pw=${DB_PW}; https://user:password@host/",
}
"""Class of look-alike to its pattern: `{3d}` three digits, `h` hexadecimal, `A` capitals, `{<9}` a number from 1 to 8."""


class Made(NamedTuple):
    """A made-up text: what form of which kind it holds, or which class of look-alikes (kind empty)."""

    kind: str
    form: str
    text: Text


def made(per_form: int, seed: int) -> list[Made]:
    """Texts of all forms, in a fixed order, the same for the same seed."""
    draw = Draw(seed)
    rows: list[Made] = []

    def add(
        kind: str, form: str, value: Callable[[], str], frames: Sequence[str] = PLAIN, language: str = "en"
    ) -> None:
        for i in range(per_form):
            before, _, after = frames[i % len(frames)].partition("{}")
            secret = value()
            gold = [Hit(len(before), len(before) + len(secret), kind)]
            name = f"{kind}:{form}:{i}"
            rows.append(Made(kind, form, Text(name, before + secret + after, gold, [], language)))

    for form, shape in MAILBOXES.items():
        add("EMAIL_ADDRESS", form, lambda shape=shape: draw.mailbox(shape))
    add("EMAIL_ADDRESS", "at, in a list's archive", lambda: draw.mailbox("{f}.{l} at {h}.{d}"), ARCHIVE)
    for form, shape in US_PHONES.items():
        add("PHONE_NUMBER", f"US {form}", lambda shape=shape: draw.nanp(shape), CALL)
    for region, shape in ABROAD.items():
        add("PHONE_NUMBER", f"international, {region}", lambda s=shape, r=region: draw.phone(s, r), CALL)
    for language, (region, shape) in AT_HOME.items():
        form = f"national, {region} in {language}"
        add("PHONE_NUMBER", form, lambda s=shape, r=region: draw.phone(s, r), NATIONAL[language], language)
    logs = ('{} - - "GET /index.html" 200 2326', "The request came from {}.", "Banned {}:8080 for spam", "{}")
    add("IP_ADDRESS", "IPv4", draw.ipv4, logs)
    add("IP_ADDRESS", "IPv6, eight groups", lambda: draw.ipv6(False), ("Connected to {} today.", "{}", "host [{}]"))
    add("IP_ADDRESS", "IPv6, compressed", lambda: draw.ipv6(True), ("Connected to {} today.", "{}", "host [{}]"))
    for form, join in (("plain", ""), ("with spaces", " "), ("with hyphens", "-")):
        add("CREDIT_CARD", f"Visa {form}", lambda join=join: draw.card("4", (4, 4, 4, 4), join))
        add("CREDIT_CARD", f"Amex {form}", lambda join=join: draw.card("37", (4, 6, 5), join))
    add("CREDIT_CARD", "Mastercard plain", lambda: draw.card("53", (4, 4, 4, 4), ""))
    cues = ("My SSN is {}.", "Social Security number: {}", "SSN {}")
    bare = ("The form of Lena Novak, {}, was lost.", "{}")
    for form, shape in (("a-b-c", "{a}-{b}-{c}"), ("a b c", "{a} {b} {c}"), ("abc", "{a}{b}{c}")):
        add("US_SSN", f"{form}, named", lambda shape=shape: draw.ssn(shape), cues)
    add("US_SSN", "a-b-c, not named", lambda: draw.ssn("{a}-{b}-{c}"), bare)
    for country, shape in IBANS.items():
        add("IBAN_CODE", f"{country} plain", lambda c=country, s=shape: draw.iban(c, s, False))
        add("IBAN_CODE", f"{country} in fours", lambda c=country, s=shape: draw.iban(c, s, True))
    wallets = {
        "Bitcoin 1...": lambda: draw.base58(0),
        "Bitcoin 3...": lambda: draw.base58(5),
        "Bitcoin bc1q": lambda: draw.bech32(0),
        "Bitcoin bc1p": lambda: draw.bech32(1),
        "Ethereum": lambda: "0x" + draw.chars(40, "0123456789abcdef"),
    }
    for form, value in wallets.items():
        add("CRYPTO", form, value, ("Donate to {} today.", "{}", "wallet: {}"))
    for form, value in CREDENTIALS.items():
        add("URL_CREDENTIALS", form, lambda value=value: value(draw), ("Clone from {} first.", "{}", 'url = "{}"'))
    for form, value in KEYS.items():
        add("API_KEY", form, lambda value=value: value(draw), ("export TOKEN={}", '"key": "{}",', "Use {} here."))
    for form, pattern in LOOK_ALIKES.items():
        rows += [Made("", form, Text(f"{form}:{i}", draw.fill(pattern), [], [])) for i in range(per_form)]
    return rows


# The crawl


def crawl(limit: int | None = None) -> list[Text]:
    """Pages of the sample crawl as the pipeline extracts them, with the language it finds."""
    texts: list[Text] = []
    for path in sorted((DATA / "crawl").glob("part-*.warc.gz")):
        with path.open("rb") as stream:
            for item in read_archive(stream, path.name):
                if not isinstance(item, Record) or item.record_type != "response":
                    continue
                body = decode_body(item.payload, item.http_headers, 10**7)
                html = decode_text(body.content, item.http_headers.get("content-type")).text
                text = extract(html, engine="resiliparse").text
                if text.strip():
                    name = f"{path.name.partition('.')[0]}:{item.offset}"
                    texts.append(Text(name, text, [], [], identify(text).code or ""))
                if len(texts) == limit:
                    return texts
    if not texts:
        raise SystemExit(f"no crawl under {DATA} (set CRAWLMILL_DATA)")
    return texts
