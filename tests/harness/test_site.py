"""The site, built from a small executed notebook, and looked at in a browser."""

import json
import re
import shutil
import urllib.parse

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from nbformat import v4 as nb

from experiments import stats
from harness import charts, claims, figures, files, outputs, safe_text, tables
from harness.publish import notebook_html, pages, sanitize, site
from harness.run import cli

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
HOSTILE = '<script>document.title="owned"</script><img src=x onerror=alert(1)>'
STYLED = " style='color:#111;position:fixed' title='t'"
STYLED += "><b style='background:url(https://example.org/a.png)'>b</b"
PROSE = """# 02 Reading: can a model read what it writes?

Claims R1 and R2. See [generation](01_generation.ipynb), [nowhere](../gone.md) and
[the paper](https://arxiv.org/abs/2412.06769). <iframe src="https://example.org"></iframe>
![away](https://example.org/pixel.png)
"""
ASKED = "## 1. Is it read (R1)?\n\nText $m=\\sum_i w_i E_i<b$ and $\\frac{$."


def output(text=None, html=None, png=None, metadata=None):
    data = {"text/plain": text or "..."}
    data |= {"text/html": html} if html else {}
    data |= {"image/png": png} if png else {}
    return nb.new_output("display_data", data=data, metadata=metadata or {})


def notebook(picture):
    """A notebook as the runner leaves it, with what a model could have written."""
    import base64

    wide = pd.DataFrame(
        [[HOSTILE] + ["0.1234"] * 30], columns=[f"c{i}" for i in range(31)]
    )
    cells = [
        nb.new_markdown_cell(PROSE),
        nb.new_code_cell("SET = 'mini'  # the set", metadata={"tags": ["parameters"]}),
        nb.new_markdown_cell(ASKED),
        nb.new_code_cell(
            "display(figure)",
            outputs=[
                output(
                    png=base64.b64encode(picture).decode(),
                    metadata={"image/png": outputs.figure_metadata("02_loop")},
                )
            ],
        ),
        nb.new_code_cell(
            "print(" + "'a very long line of code', " * 12 + ")",
            outputs=[
                nb.new_output(
                    "stream", text=f"{HOSTILE}\n\u202eabc\x07 {'long ' * 60}\n"
                ),
                output(html=wide._repr_html_()),
                nb.new_output(
                    "display_data", data={notebook_html.WIDGET: {}, "text/plain": "V("}
                ),
                output(html=f"<p onclick='x()'{STYLED}>kept</p>{HOSTILE}"),
            ],
        ),
        nb.new_code_cell(
            "finish()",
            outputs=[
                output(
                    html="<p>R1, R2</p>",
                    metadata=outputs.claims_metadata(["R1", "R2"], True),
                )
            ],
        ),
    ]
    for count, cell in enumerate(c for c in cells if c.cell_type == "code"):
        cell.execution_count = count + 1
    return nb.new_notebook(cells=cells)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A site of a set called `mine`, its folders, and the environment they need."""
    root = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRODUCE_OUT", str(root))
        frame = pd.DataFrame({"kind": ["mixture", "floor"], "value": [0.9, 0.1]})
        figure = charts.bars(frame, x="kind", y="value", title="Reading")
        alt = f"Bars: reading is far above its floor {HOSTILE}"
        figures.save(
            figure, frame, "02_loop", alt=alt, claim_ids="R1 R2", set_name="mine"
        )
        figures.save(figure, frame, "02_text", alt="The same as text", set_name="mine")
        made = {"SET": "mine", "N_PROMPTS": 60}
        figures.provenance("02_translation", "mine", made)
        estimate = stats.Estimate(0.93, 0.91, 0.95, 62, 0)
        rows = [
            claims.measured("R1", part, estimate, cell="m")
            for part in ("score", "gain", "gain_flat")
        ]
        rows.append(claims.not_tested("R2", f"a model said {HOSTILE}"))
        claims.write_rows(rows, "mine", "02_translation")
        kept = files.figures_dir("mine")
        shutil.copy(files.run_dir("mine") / "02_translation.measured.csv", kept)
        frame = tables.gather("mine")
        (kept / "verdicts.csv").write_text(tables.to_text(frame))
        book = files.run_dir("mine") / "02_translation.ipynb"
        nbformat.write(notebook((kept / "02_loop.png").read_bytes()), book)
        done = {
            "outputs": {"figures/mine/02_loop.png": files.digest(kept / "02_loop.png")}
        }
        book.with_suffix(".done.json").write_text(json.dumps(done))
        site.build("mine", root / "site")
        yield root


def text_of(built, name):
    return (built / "site" / name).read_text(encoding="utf-8")


def test_a_number_leads_to_its_row_cell_parameters_and_hashes(built):
    index, evidence = text_of(built, "index.html"), text_of(built, "claims.html")
    article = re.search(
        r'<article class="claim [\w-]+" id="R1">.*?</article>', index, re.S
    )
    for part in (
        "not reproduced",
        "score 0.93 [0.91, 0.95] exceeds 0.1",
        'href="claims.html#R1"',
        'href="02_translation.html#02_loop"',
        'href="02_translation.html#cell-3"',
    ):
        assert part in article[0], part
    rows = (built / "site/data/02_translation.measured.csv").read_text().splitlines()
    section = re.search(
        r'<section class="claim [\w-]+" id="R1">.*?</section>', evidence, re.S
    )
    for line, part, *_ in re.findall(
        r'"row">(\d+)</th><td>m</td><td>(\w+)', section[0]
    ):
        assert f",R1,m,{part},0.93" in rows[int(line) - 1]
    assert "score, m: 0.93 (95 % interval 0.91 to 0.95), n = 62, seed 0" in section[0]
    line = int(re.search(r"verdicts.csv</a>, line (\d+)", section[0])[1])
    verdicts = (built / "site/data/verdicts.csv").read_text().splitlines()
    assert verdicts[line - 1].startswith("R1,not reproduced,")
    assert "recorded in cell 6" in section[0]
    page = text_of(built, "02_translation.html")
    assert "N_PROMPTS" in page and 'id="made-from"' in page
    assert "runs/mine/02_translation.ipynb" in page


def test_model_text_is_shown_and_never_runs(built):
    for name in ("index.html", "claims.html", "02_translation.html"):
        html = text_of(built, name)
        assert not re.search(safe_text.HIDDEN, html), name
        soup = BeautifulSoup(html, "html.parser")
        assert not soup.select("script, iframe, style, form, object, [onclick]"), name
        assert all(i["src"].startswith("figures/") for i in soup.select("img")), name
    page = text_of(built, "02_translation.html")
    assert "&lt;script&gt;document.title" in page and r"\u202eabc\x07" in page
    assert "example.org" not in page.replace("https://example.org</", "")
    assert '<p style="color:#111;" title="t">' in page and "<b>b</b>" in page
    assert '<a href="https://arxiv.org/abs/2412.06769" rel="noreferrer">' in page
    assert re.search("Text <math.*<msub><mi>w.*</math> and <code class=.math.>", page)
    assert "a running kernel" in page and "V(" not in page
    assert "nowhere" in page and "gone.md" not in page


@pytest.mark.parametrize(
    "formula",
    [
        r"\text{<script>alert(1)</script>}",
        r"\href{javascript:alert(1)}{x}",
        r"\style{background:url(http://a.b)}{x}",
        r"\text{<img src=x onerror=a()>}",
    ],
)
def test_a_formula_is_signs_or_stays_as_typed(formula):
    def made(text):
        html = sanitize.clean(sanitize.prose(f"a ${text}$ b"))
        soup = BeautifulSoup(html, "html.parser")
        for code in soup.select("code.math"):
            sanitize.formula(code)
        return soup

    soup = made(formula)
    assert not soup.select("script, img, a, [href], [style], [onerror], math")
    assert soup.find("code").get_text() == formula
    assert made(r"\sum_i \frac{a}{b}\;\|x\|").select("math mfrac")


def test_what_a_picture_says_of_itself_is_not_written_into_the_page(built):
    path = files.run_dir("mine", str(built / "runs" / "mine")) / "02_translation.ipynb"
    book = nbformat.read(path, as_version=4)
    picture = next(
        o
        for c in book.cells
        for o in c.get("outputs", [])
        if "image/png" in o.get("data", {})
    )
    picture.metadata = {"image/png": {"width": "1 onerror=alert(7)"}}
    picture.data["image/png"] = picture.data["image/png"][:-8]  # no kept figure's
    book.cells[0].attachments = {"x.png": {"image/png": "aGk="}}
    copy = built / "02_translation.ipynb"
    nbformat.write(book, copy)
    html = notebook_html.render_cells(
        notebook_html.read_book(copy, "", [], ["R1"]), set(), {}
    )
    copy.unlink()
    soup = BeautifulSoup(html, "html.parser")
    assert soup.select("img[src^='data:image/png']") and not soup.select("[onerror]")


FORGED = {  # what is changed in which file -> what the one line says of it
    "verdict": ("R1,not reproduced", "R1,reproduced", "R1, verdict: 'reproduced"),
    "value": (",0.93,0.91,", ",0.39,0.91,", "R1, value: '0.39' there, '0.93' by"),
    "low": (",0.93,0.91,", ",0.93,0.19,", "R1, low: '0.19' there"),
    "n": (",0.95,62,", ",0.95,6200,", "R1, n: '6200' there"),
    "reason": ("score 0.93 [0.91", "score 0.3 [0.1", "R1, reason: 'score 0.3"),
    "statement": ("Models cannot read", "Models can read", "R1, statement: 'Mod"),
    "claims": ("\nR2,", "\nR9,", "its claims are not those of claims.csv"),
    "heads": ("id,verdict", "id,word", "has no column 'verdict'"),
    "mark": ("id,verdict", "\ufeffid,verdict", "begins with a byte-order mark"),
}


@pytest.mark.parametrize("how", FORGED)
def test_verdicts_that_their_rows_do_not_give_are_refused(
    built, monkeypatch, tmp_path, how, capsys
):
    monkeypatch.setenv("REPRODUCE_OUT", str(built))
    path = files.figures_dir("mine") / "verdicts.csv"
    kept, (old, new, says) = path.read_text(), FORGED[how]
    assert old in kept
    try:
        path.write_text(kept.replace(old, new, 1))
        assert site.main(["--set", "mine", "--out", str(tmp_path / "site")]) == 2
        refused = capsys.readouterr().err
        assert says in refused and refused.count("\n") == 1, refused
        assert "mine/verdicts.csv" in refused and "make reproduce" in refused
        assert cli.main(["verdicts", "--set", "mine"]) == 2
        assert says in capsys.readouterr().err
    finally:
        path.write_text(kept)


AMISS = {
    "nan": (",0.93,0.91,", ",nan,0.91,", "line 2: a number that is not finite"),
    "huge": (",0.93,0.91,", ",1e400,0.91,", "line 2: a number that is not finite"),
    "word": (",0.93,0.91,", ",high,0.91,", "line 2: a number that is none"),
    "order": (",0.93,0.91,", ",0.93,0.99,", "line 2: an interval upside down"),
    "cell": ("gain_flat", "g" * 200_000, "field larger than field limit"),
    "twice": ("gain_flat", "gain", "line 4: the same row twice"),
    "more": (",62,0,", ",62,0,,,", "line 2: more or fewer cells than columns"),
    "mark": ("set,", "\ufeffset,", "begins with a byte-order mark"),
    "other": ("R2", "G1", "G1 belongs to 01_generation"),
}


@pytest.mark.parametrize("how", AMISS)
def test_measured_rows_that_are_amiss_are_one_line(built, monkeypatch, capsys, how):
    monkeypatch.setenv("REPRODUCE_OUT", str(built))
    path = files.figures_dir("mine") / "02_translation.measured.csv"
    kept, (old, new, says) = path.read_text(), AMISS[how]
    assert old in kept
    try:
        path.write_text(kept.replace(old, new, 1))
        assert site.main(["--set", "mine", "--out", str(built / "other")]) == 2
        refused = capsys.readouterr().err
        assert says in refused and refused.count("\n") == 1, refused
        assert "02_translation.measured.csv is not whole" in refused
    finally:
        path.write_text(kept)


@pytest.mark.parametrize(
    "about", ["[]", '{"alt": 1, "claims": []}', '{"alt": "x"}', "{"]
)
def test_a_figure_whose_words_are_amiss_is_one_line(built, monkeypatch, capsys, about):
    monkeypatch.setenv("REPRODUCE_OUT", str(built))
    path = files.figures_dir("mine") / "02_loop.alt.json"
    kept = path.read_text()
    try:
        path.write_text(about)
        assert site.main(["--set", "mine", "--out", str(built / "other")]) == 2
        assert "02_loop.png or its .alt.json is not whole" in capsys.readouterr().err
    finally:
        path.write_text(kept)


def test_sets_stand_side_by_side(built, monkeypatch, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(built, root)
    monkeypatch.setenv("REPRODUCE_OUT", str(root))
    kept, name = root / "figures" / "other", "02_translation"
    shutil.copytree(root / "figures" / "mine", kept)
    rows = (kept / f"{name}.measured.csv").read_text()
    rows = rows.replace("mine,", "other,").replace(
        ",0.93,0.91,0.95,", ",0.03,0.01,0.05,"
    )
    (kept / f"{name}.measured.csv").write_text(rows)
    frame = tables.gather("other", folders=[kept])
    (kept / "verdicts.csv").write_text(tables.to_text(frame))
    source = {"file": "x.gguf", "numbers": "dequantised Q4_1", "sha256": "b179" * 16}
    model = {"name": "x", "revision": "", "sha256": "", "device": "cpu", "dtype": "f"}
    public = model | {"source": source | {"licence": "Apache-2.0"}}
    about = {"parameters": {}, "hashes": {}, "versions": {}}
    about["models"] = {"base": model, "instruct": public}
    (kept / "02_provenance.json").write_text(json.dumps(about))
    pixels = (kept / "02_loop.png").read_bytes()
    executed = (root / "runs" / "mine" / f"{name}.ipynb").read_bytes()
    light = notebook_html.light_copy(executed)
    assert len(light) < len(executed) - len(pixels)
    (kept / f"{name}.ipynb").write_bytes(light)
    site.build("mine", root / "site")
    index = BeautifulSoup(text_of(root, "index.html"), "html.parser")
    row = next(r for r in index.select("tr") if r.th and r.th.text == "R1")
    assert [a["href"] for a in row.select("a")] == [
        "claims.html#R1",
        "claims.html#other.R1",
    ]
    assert [a.text for a in row.select("a")] == ["not reproduced", "reproduced"]
    row = next(r for r in index.select("tr") if r.th and r.th.text == "R7")
    assert row.find_all("td")[-1].text == "across sets"
    evidence = BeautifulSoup(text_of(root, "claims.html"), "html.parser")
    article = evidence.find(id="other.R1")
    assert article.img["src"] == "figures/other/02_loop.png"
    assert article.find_parent(id="R1") and "0.03 (95 % interval" in article.text
    assert article.select("a[href^='other.02_translation.html#cell-']")
    page = BeautifulSoup(text_of(root, f"other.{name}.html"), "html.parser")
    shown = page.find("figure", id="02_loop")
    assert shown.img["src"] == "figures/other/02_loop.png"
    assert "x.gguf, dequantised Q4_1, SHA-256 b179" in page.text
    assert (root / "site/figures/other/02_loop.png").read_bytes() == pixels
    assert (root / "site/data/other/verdicts.csv").exists()
    for link in evidence.select("a[href]") + index.select("a[href]"):
        target, _, part = link["href"].partition("#")
        if not target.startswith("http"):
            assert (root / "site" / (target or "index.html")).exists(), link["href"]
            html = text_of(root, target) if target.endswith(".html") else ""
            assert not (html and part) or f'id="{part}"' in html, link["href"]

    # a set whose verdicts are not what its rows give is named, whichever set is asked
    text = (kept / "verdicts.csv").read_text()
    (kept / "verdicts.csv").write_text(text.replace("R1,reproduced", "R1,partly"))
    with pytest.raises(ValueError, match="figures/other/verdicts.csv is not what"):
        site.build("mine", root / "site")


def test_executed_notebooks_of_other_sets_are_kept_without_pixels(
    built, monkeypatch, tmp_path
):
    root = tmp_path / "root"
    shutil.copytree(built, root)
    monkeypatch.setenv("REPRODUCE_OUT", str(root))
    pages.keep_notebooks()
    kept = root / "figures" / "mine" / "02_translation.ipynb"
    assert b"iVBOR" not in kept.read_bytes()
    shutil.rmtree(root / "runs")  # as on another machine
    site.build("mine", root / "site")
    page = BeautifulSoup(text_of(root, "02_translation.html"), "html.parser")
    assert page.find("figure", id="02_loop").img["src"] == "figures/02_loop.png"
    assert "figures/mine/02_translation.ipynb" in page.find(id="made-from").text


def test_a_site_that_cannot_be_put_in_place_leaves_the_old_one(built, monkeypatch):
    monkeypatch.setenv("REPRODUCE_OUT", str(built))
    index = built / "site" / "index.html"
    before, rename, calls = index.read_bytes(), site.os.replace, []

    def stop(a, b):
        calls.append(b)
        if len(calls) == 2:
            raise KeyboardInterrupt
        rename(a, b)

    monkeypatch.setattr(site.os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        site.build("mine", built / "site")
    assert index.read_bytes() == before and not [*built.glob(".site.*")]


def test_whole_or_as_it_was(built, monkeypatch, tmp_path):
    def tree():
        return {p: p.read_bytes() for p in (built / "site").rglob("*") if p.is_file()}

    before = tree()
    monkeypatch.setattr(
        site, "render_cells", lambda *a: (_ for _ in ()).throw(OSError(28, "full"))
    )
    with pytest.raises(OSError):
        site.build("mine", built / "site")
    monkeypatch.undo()
    monkeypatch.setenv("REPRODUCE_OUT", str(built))
    assert tree() == before and not [*built.glob(".site.*")]
    site.build("mine", built / "site")
    assert tree() == before and not [*built.glob(".site.*")]
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match="is not a site"):
        site.build("mine", tmp_path)
    assert (tmp_path / "mine.txt").exists()


def test_mistakes_end_in_one_line(built, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("REPRODUCE_OUT", str(built))
    out = ["--out", str(tmp_path / "out")]
    assert site.main(["--set", "none", *out]) == 2
    assert site.main(["--set", "../up", *out]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "make reproduce SET=none" in said[0] and "SET=" in said[1]
    done = files.run_dir("mine") / "02_translation.done.json"
    kept = done.read_text()
    done.write_text(kept.replace('": "', '": "0'))  # the figures are another run's
    assert site.main(["--set", "mine", *out]) == 2
    assert "no executed notebook of mine" in capsys.readouterr().err
    done.write_text(kept)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium, where the system has one."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    quiet = "--no-sandbox --disable-gpu --disable-background-networking --no-first-run"
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found, args=quiet.split())
        yield running
        running.close()


OPEN = """() => {
  document.querySelectorAll('details').forEach(d => d.open = true);
  document.querySelectorAll('img').forEach(i => i.loading = 'eager');
}"""
# A promise, as the pages' policy forbids the eval that wait_for_function polls with.
LOADED = "() => Promise.all([...document.images].map(i => i.decode().catch(() => 0)))"
LOOK = """() => ({
  width: document.documentElement.scrollWidth,
  wide: [...document.querySelectorAll('main *')].filter(e =>
    e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.scroll, pre')
    && !e.closest('.hidden')).map(e => e.outerHTML.slice(0, 90)),
  levels: [...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(h => +h.tagName[1]),
  images: [...document.images].map(i => [i.naturalWidth, i.alt]),
  ids: [...document.querySelectorAll('[id]')].map(e => e.id),
  links: [...document.querySelectorAll('a[href]')].map(a =>
    [a.href, a.textContent.trim() || a.querySelector('img')?.alt]),
  boxes: [...document.querySelectorAll('.scroll, pre')].filter(e =>
    e.scrollWidth > e.clientWidth && e.tabIndex < 0).length,
  faint: [...document.querySelectorAll('body *')].filter(e =>
    [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim())).map(e => {
      const rgb = c => (c.match(/[\\d.]+/g) || []).map(Number);
      let at = e, ground = [255, 255, 255];
      for (; at; at = at.parentElement) {
        const c = rgb(getComputedStyle(at).backgroundColor);
        if (c.length == 3) { ground = c; break; }
      }
      const light = c => c.slice(0, 3).map(v => v / 255)
        .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
      const pair = [light(rgb(getComputedStyle(e).color)) + .05, light(ground) + .05];
      return [Math.max(...pair) / Math.min(...pair), e.outerHTML.slice(0, 90)];
    }).filter(([ratio]) => ratio < 4.5),
})"""


def look(browser, folder, width):
    """Every page as a browser sees it, and what it asked for or complained about."""
    seen, asked, said = {}, [], []
    context = browser.new_context(viewport={"width": width, "height": 800})
    tab = context.new_page()
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("requestfailed", lambda request: said.append(f"failed: {request.url}"))
    for path in sorted(folder.glob("*.html")):
        tab.set_viewport_size({"width": width, "height": 800})
        tab.emulate_media(media="screen")
        tab.goto(path.as_uri())
        tab.evaluate(OPEN)
        tab.evaluate(LOADED)
        page = seen[path.as_uri()] = tab.evaluate(LOOK) | {"title": tab.title()}
        tab.evaluate("document.documentElement.style.fontSize = '200%'")
        page["large"] = tab.evaluate("document.documentElement.scrollWidth")
        tab.evaluate("document.documentElement.style.fontSize = ''")
        tab.emulate_media(media="print")
        tab.set_viewport_size({"width": 718, "height": 800})  # A4, its margins off
        page["printed"] = tab.evaluate("document.documentElement.scrollWidth")
        tab.set_content("")  # nothing to lay out again
    context.close()
    return seen, asked, said


@pytest.fixture(scope="module")
def folder(request, built, tmp_path_factory):
    """The small site, or the one of what is published."""
    if request.param == "small":
        return built / "site"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("REPRODUCE_OUT", raising=False)
        return site.build("mini", tmp_path_factory.mktemp("mini") / "site").parent


VIEWS = [("small", 390), ("small", 1200), ("published", 390)]


@pytest.mark.parametrize(("folder", "width"), VIEWS, indirect=["folder"])
def test_every_page_in_a_browser(folder, browser, width):
    seen, asked, said = look(browser, folder, width)
    assert len(seen) >= 3
    assert not said, said
    assert all(url.startswith((folder.as_uri(), "data:")) for url in asked), asked
    assert sum(len(page["images"]) for page in seen.values()) >= 3
    for url, page in seen.items():
        assert page["width"] <= width and not page["wide"], (url, page["wide"])
        assert page["large"] <= width and page["printed"] <= 718, url
        assert page["title"].endswith("Concept tokens, tested")
        levels = page["levels"]
        assert levels[0] == 1 and levels.count(1) == 1, (url, levels)
        assert all(b <= a + 1 for a, b in zip(levels, levels[1:])), (url, levels)
        assert all(size and len(alt) > 5 for size, alt in page["images"]), url
        assert len(page["ids"]) == len({*page["ids"]}), url
        assert not page["boxes"], "a box scrolls that the keyboard cannot reach"
        assert not page["faint"], page["faint"][:3]
        for target, text in page["links"]:
            assert text, f"{url}: a link without words to {target}"
            address, _, anchor = target.partition("#")
            if address in seen:
                assert not anchor or anchor in [*seen[address]["ids"]], target
            elif address.startswith("file:"):
                path = urllib.parse.unquote(urllib.parse.urlparse(address).path)
                assert files.Path(path).is_file(), target


def test_the_keyboard_can_skip_to_the_text(built, browser):
    tab = browser.new_page()
    tab.goto((built / "site" / "index.html").as_uri())
    tab.keyboard.press("Tab")
    first = tab.evaluate("document.activeElement.textContent")
    box = tab.locator(".skip").bounding_box()
    tab.keyboard.press("Enter")
    assert first == "Skip to the text" and box["x"] >= 0
    assert tab.evaluate("document.activeElement.id") == "main"
    tab.close()
