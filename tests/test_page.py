"""The page's files as they are shipped: nothing foreign, nothing inline, nothing that a script misses, all labelled."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

import personalive
from personalive.media.video_writer import AI_COMMENT

PAGE = Path(personalive.__file__).parent / "server" / "page"
FILES = sorted(PAGE.iterdir())
DOCUMENTS = ("index.html", "view.html")
SCRIPTS = [path.name for path in FILES if path.suffix == ".js"]
SVG_NAMESPACE = "http://www.w3.org/2000/svg"
VOID = {"meta", "link", "img", "input", "br", "hr", "source"}
LABELLED = {"input", "select", "textarea", "progress", "video", "canvas", "dialog"}


class Element:
    """One element of a document: its tag, attributes, ancestors from the outside in, and the text in it."""

    def __init__(self, tag: str, attributes: dict[str, str], ancestors: list[Element]) -> None:
        self.tag, self.attributes, self.ancestors = tag, attributes, ancestors
        self.text = ""

    def inside(self, tag: str) -> Element | None:
        """The nearest ancestor with this tag."""
        return next((one for one in reversed(self.ancestors) if one.tag == tag), None)


class Document(HTMLParser):
    """All elements of a document, in order; malformed nesting is an error."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(read(name))
        self.close()
        assert self._open == [], f"{name}: not closed: {[one.tag for one in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {key: value or "" for key, value in attrs}, list(self._open))
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open[-1].tag == tag, f"</{tag}> closes <{self._open[-1].tag}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data

    @property
    def ids(self) -> list[str]:
        return [one.attributes["id"] for one in self.elements if "id" in one.attributes]


def read(name: str) -> str:
    return (PAGE / name).read_text("utf-8")


def scripts_of(document: str) -> set[str]:
    """The modules that a document runs, with all that they import."""
    waiting = [
        Path(one.attributes["src"]).name for one in Document(document).elements if one.tag == "script"
    ]  # fmt: skip
    found: set[str] = set()
    while waiting:
        script = waiting.pop()
        if script not in found:
            found.add(script)
            waiting += [Path(name).name for name in imports(script)]
    return found


def imports(script: str) -> Iterator[str]:
    for name in re.findall(r'(?:from|import)\s+"([^"]+)"', read(script)):
        assert name.startswith("./"), f"{script} imports {name}: only files beside it"
        yield name
    yield from re.findall(r'new Worker\(new URL\("([^"]+)"', read(script))


# The files


def test_only_known_kinds_are_shipped() -> None:
    assert {path.suffix for path in FILES} == {".html", ".css", ".js", ".svg"}
    assert all(path.stat().st_size < 40_000 for path in FILES)


def test_the_package_ships_them() -> None:
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8")
    assert re.search(r'personalive = \[.*"server/page/\*\*/\*".*\]', project)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_is_loaded_from_elsewhere(path: Path) -> None:
    addresses = re.findall(
        r"(?:https?:|wss?:)?//[\w.-]+[^\s\"')]*", re.sub(r"/\*.*?\*/", "", path.read_text("utf-8"), flags=re.S)
    )
    comments = re.compile(r"^// ")
    assert [one for one in addresses if one != SVG_NAMESPACE and not comments.match(one)] == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_make_no_code_from_text(name: str) -> None:
    for forbidden in (
        "eval(",
        "new Function",
        "innerHTML",
        "outerHTML",
        "document.write",
        "insertAdjacentHTML",
        'setAttribute("style"',
    ):
        assert forbidden not in read(name)


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_stay_small_and_say_what_they_are(name: str) -> None:
    lines = read(name).splitlines()
    assert lines[0].startswith("/**")
    assert len(lines) < 420
    assert max(map(len, lines)) <= 130


def test_every_script_is_used_and_there() -> None:
    used = scripts_of("index.html") | scripts_of("view.html")
    assert used == set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_imported_names_are_exported(name: str) -> None:
    for names, source in re.findall(r'import \{([^}]+)\} from "\./([^"]+)"', read(name)):
        exported = set(re.findall(r"export (?:async )?(?:function|class|const) (\w+)", read(source)))
        assert {one.strip() for one in names.split(",")} <= exported


@pytest.mark.parametrize("name", ["icons.svg", "logo.svg"])
def test_pictures_are_well_formed(name: str) -> None:
    assert ElementTree.fromstring(read(name)).tag == f"{{{SVG_NAMESPACE}}}svg"


# The documents


@pytest.mark.parametrize("name", DOCUMENTS)
def test_nothing_is_inline(name: str) -> None:
    for element in Document(name).elements:
        assert element.tag != "style"
        assert "style" not in element.attributes
        assert not [key for key in element.attributes if key.startswith("on")]
        if element.tag == "script":
            assert element.attributes["src"]
            assert element.text.strip() == ""


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_a_document_names_is_there(name: str) -> None:
    icons = {one.get("id") for one in ElementTree.fromstring(read("icons.svg"))}
    for element in Document(name).elements:
        for key in ("src", "href"):
            target = element.attributes.get(key, "#")
            if target.startswith("#"):
                assert target == "#" or target[1:] in Document(name).ids
                continue
            prefix = "assets/" if name == "index.html" else "../assets/"
            assert target.startswith(prefix), f"{target}: relative to the page, so that it works under any prefix"
            file, _, icon = target.removeprefix(prefix).partition("#")
            assert (PAGE / file).is_file()
            assert not icon or icon in icons


@pytest.mark.parametrize("name", DOCUMENTS)
def test_ids_are_unique(name: str) -> None:
    ids = Document(name).ids
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_element_that_a_script_asks_for_exists(name: str) -> None:
    asked = {
        one for script in scripts_of(name) for one in re.findall(r'(?:\$|getElementById)\("([^"]+)"\)', read(script))
    }
    assert asked
    assert asked <= set(Document(name).ids)
    computed = [script for script in scripts_of(name) if re.search(r"\$\(`", read(script))]
    assert computed == [], "ids put together from parts cannot be checked here"


def test_listed_ids_exist() -> None:
    for listed in re.findall(r"for \(const id of \[([^\]]+)\]", read("app.js")):
        assert set(re.findall(r'"([^"]+)"', listed)) <= set(Document("index.html").ids)


def test_icons_named_in_scripts_exist() -> None:
    icons = {one.get("id") for one in ElementTree.fromstring(read("icons.svg"))}
    assert '`assets/icons.svg#${running ? "stop" : "play"}`' in read("app.js")
    assert {"stop", "play"} <= icons


# Reached by keyboard, told to a screen reader


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_control_has_a_name(name: str) -> None:
    document = Document(name)
    labels = {
        one.attributes["for"]: one.text.strip()
        for one in document.elements
        if one.tag == "label" and "for" in one.attributes
    }
    for element in document.elements:
        if element.tag not in LABELLED | {"button"}:
            continue
        around = element.inside("label")
        words = (
            element.attributes.get("aria-label")
            or element.attributes.get("aria-labelledby")
            or labels.get(element.attributes.get("id", ""))
            or (around.text.strip() if around else "")
            or (element.text.strip() if element.tag == "button" else "")
            or (element.attributes.get("aria-label") if element.tag == "canvas" else "")
        )
        assert words, f"<{element.tag} {element.attributes}> has no name"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_references_between_elements_hold(name: str) -> None:
    document = Document(name)
    for element in document.elements:
        for key in ("for", "aria-labelledby", "aria-describedby", "aria-controls"):
            for target in element.attributes.get(key, "").split():
                assert target in document.ids, f"{key}={target}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_pictures_have_words_or_are_ornament(name: str) -> None:
    for element in Document(name).elements:
        if element.tag == "img":
            assert "alt" in element.attributes
        if element.tag == "svg":
            assert element.attributes.get("aria-hidden") == "true"


def test_states_and_errors_are_announced() -> None:
    elements = {one.attributes.get("id"): one.attributes for one in Document("index.html").elements}
    assert elements["state"]["aria-live"] == "polite"
    assert elements["problem"]["role"] == "alert"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_suit_phones_and_languages(name: str) -> None:
    elements = Document(name).elements
    assert elements[0].attributes == {"lang": "en"}
    assert any("width=device-width" in one.attributes.get("content", "") for one in elements)
    assert not any("user-scalable" in one.attributes.get("content", "") for one in elements)


def test_light_and_dark() -> None:
    assert "prefers-color-scheme: dark" in read("style.css")
    assert "prefers-reduced-motion" in read("style.css")


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read(dark: bool) -> None:
    """Contrast of at least 4.5 to 1 (WCAG 2.1, AA) for every text colour on every ground that it stands on."""
    light_block, dark_block = re.findall(r":root \{([^}]+)\}", read("style.css"))
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})", light_block))
    if dark:
        colours |= dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})", dark_block))
    for text, grounds in {
        "text": ("page", "card", "well", "chosen"),
        "soft": ("page", "card", "well"),
        "accent": ("page", "card"),
        "on-accent": ("accent", "accent-over"),
        "warn": ("page",),
        "bad": ("page", "bad-card"),
    }.items():
        for ground in grounds:
            assert contrast(colours[text], colours[ground]) >= 4.5, f"{text} on {ground}"


def contrast(one: str, other: str) -> float:
    """Of two colours #rgb or #rrggbb, from 1 to 21."""
    brighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    """Relative luminance in [0, 1] (WCAG 2.1)."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    channels = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


# What the page and the rest of the product say alike


def test_the_mark_is_the_product_s() -> None:
    assert f'"{AI_COMMENT}"' in read("marks.js")


def test_controls_are_those_of_the_protocol() -> None:
    controls = {
        one.attributes["data-control"] for one in Document("index.html").elements if "data-control" in one.attributes
    }
    assert controls == {
        "rotation_gain", "translation_gain", "scale_gain", "expression_gain",
        "smoothing", "mirror", "driving_rate", "quality",
    }  # fmt: skip
