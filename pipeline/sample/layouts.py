"""Main parts of pages worth keeping: articles, threads, documentation, recipes. Each returns HTML and its sentences."""

from html import escape
from random import Random
from typing import NamedTuple

from pipeline.sample.page import bullets, paragraphs
from pipeline.sample.prose import English, bank


class Main(NamedTuple):
    """The main part of a page: title, HTML, and the paragraphs of prose that are in it."""

    title: str
    html: str
    prose: list[str]


def prose_paragraphs(english: English, words: int) -> list[str]:
    """Paragraphs of at least `words` words in all."""
    texts: list[str] = []
    total = 0
    while total < words:
        texts.append(english.paragraph())
        total += len(texts[-1].split())
    return texts


def article(english: English, words: int = 0) -> Main:
    """Headed paragraphs of 150 to 420 words, sometimes with a subheading, a quotation or a captioned figure."""
    random = english.random
    texts = prose_paragraphs(english, words or random.randint(150, 420))
    parts = []
    for i, text in enumerate(texts):
        if i and i % 3 == 0:
            parts.append(f"<h2>{escape(english.heading())}</h2>")
        if i == 2 and random.random() < 0.3:
            parts.append(f"<blockquote>{paragraphs([text])}</blockquote>")
        else:
            parts.append(paragraphs([text]))
    return Main(english.title(), "\n".join(parts), texts)


def thread(english: English) -> Main:
    """A forum thread of four to eight posts, each with its author and date."""
    random = english.random
    names = random.sample(bank("english")["firsts"], 4)
    posts, prose = [], []
    for i in range(random.randint(4, 8)):
        text = english.paragraph(2, 4)
        prose.append(text)
        author = names[i % 4].lower() + str(random.randrange(10, 99))
        posts.append(
            f'<div class="post" id="p{i}"><div class="post-author"><a href="/user/{author}">{author}</a>, '
            f"{random.randrange(1, 28)} {english.decks['month'].draw()} 2023</div>"
            f'<div class="post-body">{paragraphs([text])}</div></div>'
        )
    return Main(english.title() + "?", f'<div class="thread">{"".join(posts)}</div>', prose)


def question(english: English) -> Main:
    """A question with two to four answers and their votes."""
    random = english.random
    ask = english.paragraph(3, 4) + " What would you do?"
    answers = [english.paragraph(3, 5) for _ in range(random.randint(2, 4))]
    html = f'<div class="question">{paragraphs([ask])}</div>' + "".join(
        f'<div class="answer"><span class="votes">{random.randrange(1, 90)}</span>{paragraphs([a])}</div>'
        for a in answers
    )
    return Main("How do I " + english.decks["habit"].draw() + "?", html, [ask, *answers])


def code_lines(random: Random, braces: bool) -> str:
    """A made-up program of five to eight lines, with or without curly braces."""
    names = random.sample(
        ["tide", "kiln", "ledger", "hive", "signal", "crumb", "bearing", "pendulum", "reed", "weir"], 4
    )
    if braces:
        lines = [f"int {names[0]}(int {names[1]}) {{"]
        lines += [f"    {n} = {n} * {random.randrange(2, 99)};" for n in names[1:]]
        return "\n".join([*lines, f"    return {names[1]} + {names[2]};", "}"])
    lines = [f"def {names[0]}({names[1]}, {names[2]}):", f"    {names[3]} = {names[1]} * {random.randrange(2, 99)}"]
    lines += [f"    if {names[3]} > {random.randrange(100, 999)}:", f"        return {names[2]}"]
    return "\n".join(
        [*lines, f"    return {names[3]} - {names[2]}", "", f"print({names[0]}({random.randrange(9)}, 7))"]
    )


def documentation(english: English, braces: bool = False) -> tuple[Main, str]:
    """A manual page with headings, code, a list of steps and a small table; and the code in it."""
    random = english.random
    texts = [english.paragraph(2, 4) for _ in range(random.randint(4, 6))]
    steps = [english.sentence() for _ in range(4)]
    code = code_lines(random, braces)
    names = random.sample(bank("topics")[english.topic]["objects"], 4)
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{random.randrange(1, 500)}</td></tr>" for name in names)
    html = [f"<h2>{escape(english.heading())}</h2>", paragraphs(texts[:2]), f"<pre><code>{escape(code)}</code></pre>"]
    html += [paragraphs(texts[2:3]), "<h2>Steps</h2>", bullets(steps, "ol"), "<h2>Values</h2>"]
    html += [f"<table><tr><th>Name</th><th>Value</th></tr>{rows}</table>", paragraphs(texts[3:])]
    return Main("Manual: " + english.title(), "\n".join(html), texts + steps), code


def mathematics(english: English) -> tuple[Main, list[str]]:
    """An article with formulas as MathML and as TeX scripts; and text that stands for each formula. No curly braces."""
    random = english.random
    a, b, n = (random.randrange(2, 60) for _ in range(3))
    texts = prose_paragraphs(english, 160)
    tex = f"a_{a % 10}^2 + b^{n % 9 + 1} = {a * b} \\cdot x"
    mathml = (
        f"<math><mrow><mi>y</mi><mo>=</mo><mn>{a}</mn><mi>x</mi><mo>+</mo><mn>{b}</mn></mrow>"
        f'<annotation encoding="application/x-tex">y = {a}x + {b}</annotation></math>'
    )
    html = [
        paragraphs(texts[:1]),
        f"<p>The relation is {mathml} for every day of the year.</p>",
        paragraphs(texts[1:2]),
    ]
    html += [f'<p>In the second case one finds <script type="math/tex">{tex}</script> and no other term.</p>']
    return Main(english.title(), "\n".join([*html, paragraphs(texts[2:])]), texts), [tex]


def data_table(english: English) -> tuple[Main, list[str]]:
    """An article around a table of measurements; and some cells of the table."""
    random = english.random
    towns = random.sample(bank("english")["towns"], 4)
    cells = [[t, str(random.randrange(100, 999)), f"{random.randrange(10, 99)}.{random.randrange(9)}"] for t in towns]
    rows = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in cells)
    texts = prose_paragraphs(english, 260)
    table = f"<table><thead><tr><th>Town</th><th>Visits</th><th>Share</th></tr></thead><tbody>{rows}</tbody></table>"
    return Main(english.title(), paragraphs(texts[:2]) + table + paragraphs(texts[2:]), texts), [
        cells[0][1],
        cells[3][1],
    ]


def recipe(english: English) -> Main:
    """A dish: introduction, ingredients with amounts, numbered steps in full sentences, a closing note."""
    random = english.random
    words = bank("kitchen")
    foods = random.sample(words["foods"], 7)
    intro = [english.paragraph(2, 3), english.paragraph(2, 3)]
    amounts = [f"{random.randrange(50, 900, 25)} g {food}" for food in foods[:5]] + [
        f"{random.randrange(2, 7)} {foods[5]}"
    ]
    steps = []
    for template in random.sample(words["steps"], 6):
        steps.append(
            template.format(
                a=random.choice(foods), b=random.choice(foods), vessel=random.choice(words["vessels"]),
                minutes=random.randrange(3, 70), sign=random.choice(words["signs"]),
            )
        )  # fmt: skip
    note = english.paragraph(2, 3)
    title = f"{random.choice(words['styles'])} {foods[0]} with {foods[1]}"
    html = paragraphs(intro) + "<h3>Ingredients</h3>" + bullets(amounts) + "<h3>Method</h3>" + bullets(steps, "ol")
    return Main(title, html + paragraphs([note]), [*intro, *steps, note])


def listicle(english: English) -> Main:
    """An article whose points are the items of a list, each of two sentences."""
    intro = english.paragraph(2, 3)
    items = [english.paragraph(2, 2) for _ in range(english.random.randint(6, 9))]
    end = english.paragraph(2, 3)
    return Main(english.title(), paragraphs([intro]) + bullets(items) + paragraphs([end]), [intro, *items, end])
