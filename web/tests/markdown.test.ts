import { expect, test } from "vitest";
import { plainTitle } from "../src/conversation/direction";
import { formula } from "../src/markdown/formula";
import { GrowingMarkdown } from "../src/markdown/growing";
import { blockSources, isSafeAddress, markdownToHtml, type Artists } from "../src/markdown/to-html";

/** HTML without the direction that every block carries. */
const undirected = (html: string) => html.replace(/ dir="(?:auto|ltr|rtl)"/g, "");

const DOCUMENT = `# A heading

A paragraph with *emphasis*, \`code\` and $x^2$,
that goes on.

- one
- two

  still two
- three

Setext
------

| a | b |
|---|--:|
| 1 | 2 |

\`\`\`python
print("# no heading")

- no list
\`\`\`

> quoted
> text

$$
\\sum_i x_i
$$

1. first
2. second

The end.
`;

test("growing character by character gives the blocks of the whole", () => {
  const growing = new GrowingMarkdown();
  for (let length = 1; length <= DOCUMENT.length; length++) {
    const text = DOCUMENT.slice(0, length);
    const blocks = growing.update(text);
    expect(blocks.join("")).toBe(text);
    expect(blocks, JSON.stringify(text.slice(-20))).toEqual(blockSources(text));
  }
});

test("finished blocks are the same strings, so that nothing redraws them", () => {
  const growing = new GrowingMarkdown();
  const before = [...growing.update("one\n\ntwo\n\nthr")];
  const after = growing.update("one\n\ntwo\n\nthree");
  expect(after.slice(0, -1)).toEqual(before.slice(0, -1));
  expect(growing.update("another text")).toEqual(["another text"]);
});

test("HTML is shown, not obeyed", () => {
  for (const html of ["<img src=x onerror=alert(1)>", "<script>alert(1)</script>", "a <b onclick=x>b</b>", "<svg/onload=x>"]) {
    const result = undirected(markdownToHtml(html)).replace(/<\/?p>/g, "");
    expect(result).not.toMatch(/<(?!br)/);
    expect(result).toMatch(/&#60;|&lt;/);
  }
});

test("links lead to web and mail addresses only, images are links", () => {
  expect(undirected(markdownToHtml("[a](https://example.org)"))).toContain('<a href="https://example.org">a</a>');
  expect(undirected(markdownToHtml("[a](javascript:alert(1))"))).toBe("<p>a</p>\n");
  expect(undirected(markdownToHtml("![pic](https://example.org/x.png)"))).toBe('<p><a href="https://example.org/x.png">pic</a></p>\n');
  expect(undirected(markdownToHtml("![pic](data:image/svg+xml;base64,x)"))).toBe("<p>pic</p>\n");
  expect(markdownToHtml('[a](https://example.org/"onmouseover=alert)')).not.toContain('"onmouseover');
  expect(isSafeAddress(" javascript:x")).toBe(false);
});

test("code goes to the artist with its language, and is escaped without one", () => {
  const seen: string[] = [];
  const artists: Artists = { highlight: (code, language) => (seen.push(language), `<b>${code}</b>`), formula: null };
  expect(markdownToHtml("```python x\n1 < 2\n```", artists)).toContain("<b>1 < 2</b>");
  expect(markdownToHtml("```\n1 < 2\n```", artists)).toContain("1 &#60; 2");
  expect(markdownToHtml('```"><img>\n1\n```', artists)).not.toContain("<img>");
  expect(seen).toEqual(["python"]);
});

test("formulas are recognized, and prices are not formulas", () => {
  const artists: Artists = { highlight: null, formula: (source, isDisplayed) => `[${isDisplayed ? "D" : "I"}:${source}]` };
  const drawn = (source: string) => undirected(markdownToHtml(source, artists)).replace(/<\/?p>|\n/g, "");
  expect(drawn("so $a_1$ and \\(b\\)")).toBe("so [I:a_1] and [I:b]");
  expect(drawn("$$x$$")).toBe("[D:x]");
  expect(drawn("\\[\nx*y*z\n\\]")).toBe("[D:x*y*z]");
  expect(drawn("it costs $5 and $10")).toBe("it costs $5 and $10");
  expect(drawn("a $ b $ c")).toBe("a $ b $ c");
  expect(drawn("`$a$`")).toBe("<code>$a$</code>");
  expect(markdownToHtml("$<img>$")).toContain("&#60;img&#62;");
});

test("what is nested without end is drawn, and a growing text of it too", () => {
  for (const mark of [">", "> ", "* ", "- ", "1. ", "+ ", "> - ", "- > ", "- [ ] "]) {
    const text = `${mark.repeat(3000)}the end`;
    const html = new GrowingMarkdown().update(text).map((block) => markdownToHtml(block)).join("");
    expect(html, mark).toContain("the end");
    expect(html.match(/<(?:blockquote|ul|ol)/g)!.length, mark).toBeLessThan(60);
  }
  const lists = Array.from({ length: 300 }, (_, level) => `${"  ".repeat(level)}- level ${level}`).join("\n");
  expect(markdownToHtml(lists)).toContain("level 299");
  expect(markdownToHtml("> > quoted").match(/<blockquote/g)).toHaveLength(2);
});

test("braces without end in a formula are shown as they are written", () => {
  const source = "{".repeat(5000);
  expect(formula(source, false)).toContain(source);
  expect(formula("x^2", false)).toContain("katex");
});

test("each block goes the way its first letter goes, and code from left to right", () => {
  expect(markdownToHtml("שלום")).toBe('<p dir="auto">שלום</p>\n');
  expect(markdownToHtml("- שלום\n- hello")).toMatch(/<ul dir="rtl">\n<li dir="rtl">.*<li dir="ltr">/s);
  expect(markdownToHtml("1. `code` مرحبا")).toMatch(/<ol dir="rtl">\n<li dir="rtl">.*<code dir="ltr">code/s);
  expect(markdownToHtml("> مرحبا")).toMatch(/<blockquote dir="rtl">/);
  expect(markdownToHtml("| א | b |\n|---|--:|\n| 1 | 2 |")).toMatch(/<table dir="rtl">.*<td dir="auto" align="right">2/s);
  expect(markdownToHtml("```\nשלום\n```")).toMatch(/class="code-block" dir="ltr"/);
  expect(markdownToHtml("- 1\n- 2")).toMatch(/^<ul>\n<li>/);
});

test("a title stands in one row and turns nothing around", () => {
  expect(plainTitle("abc\u202edef\u2066")).toBe("abcdef");
  expect(plainTitle(" \n\t ")).toBe("Untitled");
  expect(plainTitle("a\nb")).toBe("a b");
  expect(plainTitle("x".repeat(1_000_000))).toHaveLength(200);
});
