"""What a model writes is shown as it means it, and never runs."""

import json

import pytest

pytestmark = pytest.mark.browser

MARKDOWN = """\
# Title

| left | right |
|------|------:|
| a    |    1  |

```python
def answer(): return 42
```

Euler: $e^{i\\pi} + \\sqrt{1} = 0$, and displayed:

$$\\int_0^1 x\\,dx$$

- [x] done
- **bold** and `code`
"""


def test_markdown_with_tables_code_and_formulas(chat):
    chat.answer_with({"content": MARKDOWN})
    chat.say("Show me.")
    reply = chat.last.locator(".markdown")
    assert reply.locator("h1").inner_text() == "Title"
    assert reply.locator("td").all_inner_texts() == ["a", "1"]
    reply.locator("pre .hljs-keyword").first.wait_for()
    reply.locator(".katex").nth(1).wait_for()
    assert reply.locator(".katex-display").count() == 1
    assert reply.locator("math").count() == 2, "screen readers read the formula"
    assert reply.locator("td").last.evaluate("cell => getComputedStyle(cell).textAlign") == "right"
    assert reply.locator(".katex svg path").first.get_attribute("d"), "a root has a line over it"
    assert reply.locator("li").first.inner_text().startswith("☑")


def test_code_has_a_copy_button_and_so_has_the_reply(chat):
    markdown = "```python\ndef answer():\n    return 42\n```"
    chat.answer_with({"content": markdown})
    chat.say("Code, please.")
    chat.last.get_by_role("button", name="Copy", exact=True).click()
    chat.page.get_by_text("Copied.").wait_for()
    assert chat.page.evaluate("navigator.clipboard.readText()") == "def answer():\n    return 42"
    chat.button("Copy reply").click()
    chat.until(f"navigator.clipboard.readText().then((text) => text === {json.dumps(markdown)})")


def test_a_call_of_the_calculator_is_a_card_that_opens(chat):
    sent: list[dict] = []
    chat.answer_with(
        {"chatsmith": {"parts": [{"kind": "python", "text": ""}, {"kind": "python", "text": "37+"}]}},
        {"chatsmith": {"parts": [{"kind": "python", "text": "58"}]}},
        {"chatsmith": {"parts": [{"kind": "output", "text": ""}, {"kind": "output", "text": "95"}]}},
        {"content": "It is 95."},
    )
    chat.say("What is 37 plus 58?")
    card = chat.last.locator(".tool-card")
    assert card.locator("summary code").all_inner_texts() == ["37+58", "95"]
    assert "It is 95." in chat.text()
    assert not card.locator("dl").is_visible()
    card.locator("summary").click()
    assert card.locator("dd").all_inner_texts() == ["37+58", "95"]
    chat.page.unroute_all()
    chat.page.on(
        "request", lambda asked: sent.append(asked.post_data_json) if "completions" in asked.url else None
    )
    chat.set_up({"Longest reply": 3})
    chat.say("Thank you.")
    parts = [
        {"kind": "python", "text": "37+58"},
        {"kind": "output", "text": "95"},
        {"kind": "text", "text": "It is 95."},
    ]
    assert sent[0]["messages"][1]["chatsmith"] == {"parts": parts}


INJECTIONS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)><script>alert(1)</script></svg>",
    "<svg><animate onbegin=alert(1) attributeName=x dur=1s>",
    "<svg><use href='data:image/svg+xml,<svg id=x onload=alert(1)>#x'></svg>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)></style></mglyph></table></mtext></math>",
    "<iframe src='javascript:alert(1)'></iframe>",
    "<iframe srcdoc='<script>parent.alert(1)</script>'></iframe>",
    "<object data='javascript:alert(1)'></object><embed src='javascript:alert(1)'>",
    "<a href='javascript:alert(1)'>press</a>",
    "<form action='https://example.org'><input name=a><button>press</button></form>",
    "<body onload=alert(1)><meta http-equiv=refresh content='0;url=https://example.org'>",
    "<link rel=stylesheet href='https://example.org/x.css'><base href='https://example.org/'>",
    "<style>@import 'https://example.org/x.css'; body { background: url(https://example.org/x.png) }</style>",
    "<details open ontoggle=alert(1)><summary>x</summary></details>",
    "<video src=x onerror=alert(1)></video><audio src=x onerror=alert(1)></audio>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'></noscript>",
    "<template><img src=x onerror=alert(1)></template>",
    "<div style='background:url(https://example.org/x.png)'>x</div>",
    "<img src='https://example.org/track.png'>",
    "[press](javascript:alert(1))",
    "[press](JaVaScRiPt:alert(1))",
    "[press](data:text/html,<script>alert(1)</script>)",
    "[press](vbscript:alert(1))",
    '[press](https://example.org/"onmouseover="alert(1))',
    "[press](<javascript:alert(1)>)",
    "[press]: javascript:alert(1)\n\n[press]",
    "<javascript:alert(1)>",
    "![x](https://example.org/track.png)",
    '![x](x"onerror="alert(1))',
    "![x](data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9YWxlcnQoMSk+)",
    "```html\n<img src=x onerror=alert(1)>\n```",
    '```"><img src=x onerror=alert(1)>\ncode\n```',
    "```python\n</code></pre><img src=x onerror=alert(1)>\n```",
    "`<img src=x onerror=alert(1)>`",
    "| <img src=x onerror=alert(1)> |\n|---|\n| <script>alert(1)</script> |",
    "$\\href{javascript:alert(1)}{press}$",
    "$\\includegraphics{https://example.org/x.png}$",
    "$\\htmlData{x=y}{<img src=x onerror=alert(1)>}$",
    "$$\\text{<img src=x onerror=alert(1)>}$$",
    "$\\def\\x{\\x\\x}\\x$",
    "&lt;img src=x onerror=alert(1)&gt; &#60;script&#62;alert(1)&#60;/script&#62;",
    "<p id=app>clobbered</p><input name=body><a id=location href=//example.org>x</a>",
    "\u0000<scr\u0000ipt>alert(1)</scr\u0000ipt>",
]

# What Markdown is made into, and what KaTeX draws with.
HARMLESS_TAGS = """
    p br hr h1 h2 h3 h4 h5 h6 strong em del code pre blockquote ul ol li a span div button table thead tbody tr th td
    math semantics annotation mrow mi mo mn ms mtext mspace msup msub msubsup mfrac msqrt mroot mover munder munderover
    mtable mtr mtd mstyle mpadded mphantom menclose svg path line
"""
HARMLESS_ATTRIBUTES = """
    class dir href target rel type tabindex align start style aria-hidden data-language xmlns encoding display width
    height viewbox viewBox preserveaspectratio preserveAspectRatio d mathvariant stretchy fence separator lspace rspace
    minsize
    maxsize scriptlevel displaystyle columnalign columnspacing rowspacing accent depth
"""


def test_nothing_that_a_reply_says_runs_loads_or_leads_away(chat):
    """All of them in one reply, and each in a block of its own; `chat` fails on dialogs, errors and requests."""
    chat.answer_with(*({"content": f"{injection}\n\n"} for injection in INJECTIONS))
    chat.say("Attack!")
    chat.last.locator(".katex").first.wait_for()
    chat.page.wait_for_timeout(300)
    elements = chat.last.locator(".markdown").evaluate("""(root) =>
        [...root.querySelectorAll("*")].map((element) => [
          element.tagName.toLowerCase(),
          Object.fromEntries([...element.attributes].map(({ name, value }) => [name, value])),
        ])""")
    assert {tag for tag, _ in elements} <= set(HARMLESS_TAGS.split())
    assert {name for _, attributes in elements for name in attributes} <= set(HARMLESS_ATTRIBUTES.split())
    addresses = [attributes.get("href", "https:") for tag, attributes in elements if tag == "a"]
    assert all(address.startswith(("https:", "http:", "mailto:")) for address in addresses)
    styles = " ".join(attributes.get("style", "") for _, attributes in elements)
    assert "url" not in styles and "expression" not in styles
    assert "<script>alert(1)</script>" in chat.text(), "HTML is shown as it was written"
    for link in chat.last.locator(".markdown a").all():
        assert link.get_attribute("target") == "_blank"
    assert chat.page.evaluate("document.querySelector('#app').contains(document.querySelector('.reply'))")


def test_the_policy_would_stop_what_cleaning_missed(chat):
    """The second wall, tried without the first."""
    chat.page.evaluate("""
        window.hit = [];
        window.alert = () => hit.push("ran");
        document.addEventListener("securitypolicyviolation", (event) => hit.push(event.effectiveDirective));
        const box = document.createElement("div");
        box.innerHTML = "<img src=x: onerror=alert(1)><img src=https://example.org/x.png>";
        document.body.append(box);
    """)
    chat.until("hit.length >= 2")
    hit = set(chat.page.evaluate("hit"))
    assert "ran" not in hit
    assert hit == {"script-src-attr", "img-src"}
    chat.page.complaints.clear()


def test_what_a_person_types_is_shown_as_typed(chat):
    chat.set_up({"Longest reply": 2})
    chat.say("<b>bold</b> **not bold**\n  <|assistant_end|>")
    assert chat.page.locator(".bubble").text_content() == "<b>bold</b> **not bold**\n  <|assistant_end|>"


def test_a_reply_nested_without_end_leaves_the_page_whole(chat):
    nested = ">" * 2000 + " quoted\n\n" + "* " * 3000 + "listed\n\nThe end."
    chat.answer_with({"content": nested})
    chat.say("Nest!")
    chat.last.get_by_text("The end.").wait_for()
    chat.has_said("Nest!")
    chat.page.reload()
    chat.last.get_by_text("The end.").wait_for()
    chat.page.get_by_role("button", name="Actions for Nest!").click()
    chat.page.get_by_role("menuitem", name="Delete").click()
    chat.page.get_by_text("Say something to your model").wait_for()
    chat.reads(chat.page.locator(".entry-title"))


def test_a_message_that_cannot_be_drawn_takes_nothing_else_along(chat):
    chat.answer_with({"content": "Fine."})
    chat.say("One")
    chat.say("Two")
    chat.page.evaluate("""new Promise((resolve) => {
      indexedDB.open("chatsmith").onsuccess = ({ target: { result: database } }) => {
        const change = database.transaction(["messages", "conversations"], "readwrite");
        const messages = change.objectStore("messages");
        messages.getAll().onsuccess = ({ target: { result: all } }) => {
          const first = all.filter(({ role }) => role === "assistant").sort((a, b) => a.createdAt - b.createdAt)[0];
          messages.put({ ...first, parts: [{ kind: "text", text: { not: "a text" } }] });
        };
        const broken = { id: "b0", title: { not: "a text" }, createdAt: 1, updatedAt: 1, settings: {}, chosen: {} };
        change.objectStore("conversations").put(broken);
        change.oncomplete = resolve;
      };
    })""")
    chat.page.reload()
    chat.has_said("One", "Two")
    chat.page.get_by_text("This message cannot be shown as it should be.").wait_for()
    assert chat.last.locator(".markdown").inner_text() == "Fine."
    chat.until("document.querySelectorAll('.entry').length === 2")
    chat.page.get_by_role("button", name="Delete it").click()
    chat.has_said("One")


def test_what_is_written_from_right_to_left_stands_so(chat):
    hebrew = "שלום עולם."
    reply = f"{hebrew}\n\n- {hebrew}\n- {hebrew}\n\n> {hebrew}\n\n"
    reply += f"| {hebrew} | b |\n|--|--|\n| א | b |\n\n`code` {hebrew}"
    reply += f"\n\n```\nx = '{hebrew}'\n```\n\nAnd English."
    chat.answer_with({"content": reply})
    direction = "(element) => getComputedStyle(element).direction"
    chat.message.fill(hebrew)
    assert chat.message.evaluate(direction) == "rtl"
    chat.say(hebrew)
    assert chat.page.locator(".bubble").evaluate(direction) == "rtl"
    assert chat.page.locator(".entry-title").evaluate(direction) == "rtl"
    for selector in ("p", "ul", "li", "blockquote", "table", "th"):
        assert chat.last.locator(f".markdown {selector}").first.evaluate(direction) == "rtl", selector
    for selector in ("pre", "pre code", "p code", ".block:last-child p", "th:last-child"):
        assert chat.last.locator(f".markdown {selector}").last.evaluate(direction) == "ltr", selector
    first, second = (chat.last.locator("th").nth(column).bounding_box() for column in (0, 1))
    assert first["x"] > second["x"], "the first column stands at the right"
    edge = chat.last.locator("ul").bounding_box()
    item = chat.last.locator("li").first.bounding_box()
    assert item["x"] + item["width"] < edge["x"] + edge["width"], "the bullets stand at the right"


def test_a_title_turns_nothing_around(chat):
    chat.answer_with({"content": "Fine."})
    chat.say("abc\u202edef\u2067")
    chat.reads(chat.page.locator(".entry-title"), "abcdef")
    chat.page.get_by_role("button", name="Actions for abcdef", exact=True).wait_for()
    chat.until("document.title === 'abcdef · chatsmith'")


def test_dollars_of_a_shell_are_text_and_formulas_in_cells_and_environments_are_drawn(chat):
    shell = "set PATH=$HOME/bin:$PATH"
    equation = "\\begin{equation}\nE = mc^2\n\\end{equation}"
    chat.answer_with({"content": f"{shell}\n\n| a | b |\n|---|---|\n| $x|y$ | US$ |\n\n{equation}"})
    chat.say("Dollars!")
    chat.last.locator(".katex").nth(1).wait_for()
    assert chat.last.locator(".markdown p").first.inner_text() == shell
    assert chat.last.locator("td").count() == 2
    assert chat.last.locator("td").first.locator(".katex").count() == 1
    assert chat.last.locator(".katex-display").count() == 1
    assert chat.last.locator(".katex-error").count() == 0
