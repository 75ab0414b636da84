import { expect, test } from "vitest";
import { plainTitle } from "../src/conversation/direction";
import { formula } from "../src/markdown/formula";
import { GrowingMarkdown } from "../src/markdown/growing";
import { blockSources, isSafeAddress, markdownToHtml, wants, type Artists } from "../src/markdown/to-html";

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

const DRAWN: Artists = { highlight: null, formula: (source, isDisplayed) => `[${isDisplayed ? "D" : "I"}:${source}]` };

test.each([
  "set PATH=$HOME/bin:$PATH",
  "US$/t and A$/t",
  "export A=$B:$C",
  "a$b$c",
  "cash$money$cash",
  "I have $5.$ignored",
  "C:\\(x86\\)\\bin",
  "$HOME and $PATH",
  "it costs $5-$10, or R$20",
  "buy $AAPL and $MSFT",
  "jQuery: $(\"a\").b($x)",
  "^a$|^b$",
  "prix: 5$ ou 6$",
  "über$x$",
  "$5|$6",
])("%s is text", (source) => {
  expect(markdownToHtml(source, DRAWN)).not.toMatch(/\[[ID]:/);
  expect(markdownToHtml(`*so* ${source}`, DRAWN)).not.toMatch(/\[[ID]:/);
});

test.each([
  ["$x^2$", "[I:x^2]"],
  ["($x$), $y$.", "([I:x]), [I:y]."],
  ["where **$x$**", "where <strong>[I:x]</strong>"],
  ["$a$-th and $b$: $c$", "[I:a]-th and [I:b]: [I:c]"],
  ["ここで$x$とする", "ここで[I:x]とする"],
  ["the $n$th of $2^n$s", "the [I:n]th of [I:2^n]s"],
  ["\\(x\\)\\(y\\)", "[I:x][I:y]"],
  ["of \\(n\\)", "of [I:n]"],
  ["so $$x$$ is", "so [D:x] is"],
  ["$\\text{a}\\$5$", "[I:\\text{a}\\$5]"],
])("%s has formulas", (source, drawn) => {
  expect(undirected(markdownToHtml(source, DRAWN)).replace(/<\/?p>|\n/g, "")).toBe(drawn);
});

test("a bar within a formula ends no cell, and prices in cells are prices", () => {
  const cells = (row: string) =>
    [...undirected(markdownToHtml(`| a | b |\n|---|---|\n${row}\n\nafter`, DRAWN)).matchAll(/<td>(.*?)<\/td>/gs)].map(([, cell]) => cell);
  expect(cells("| $x|y$ | $|z|$ |")).toEqual(["[I:x|y]", "[I:|z|]"]);
  expect(cells("| $5 | $6 |")).toEqual(["$5", "$6"]);
  expect(cells("|$5|$6|")).toEqual(["$5", "$6"]);
  expect(cells("| US$ | A$ |")).toEqual(["US$", "A$"]);
  const table = "| $x|y$ | b |\n|---|---|\n| $P(a|b)$ | 2 |\n";
  expect(blockSources(`${table}\nafter`).join("")).toBe(`${table}\nafter`);
  expect(markdownToHtml(`${table}\nafter`, DRAWN)).toMatch(/\[I:P\(a\|b\)\].*<p dir="auto">after/s);
});

test("an equation's environment is a formula, also while it grows", () => {
  const source = "So:\n\\begin{equation}\na = b\n\\end{equation}\nand on";
  expect(markdownToHtml(source, DRAWN)).toContain("[D:\\begin{equation}\na = b\n\\end{equation}]");
  expect(markdownToHtml("\\begin{align*}\na &= b\n\\end{align*}", DRAWN)).toContain("[D:\\begin{align*}");
  expect(markdownToHtml("a \\begin{equation} b", DRAWN)).not.toContain("[D:");
  expect(wants(source).formula).toBe(true);
  const growing = new GrowingMarkdown();
  for (let length = 1; length <= source.length; length++) {
    expect(growing.update(source.slice(0, length))).toEqual(blockSources(source.slice(0, length)));
  }
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

test("an emphasis ends within reach, or is none", () => {
  const words = (length: number) => `**${"word ".repeat(length / 5)}end**`;
  expect(markdownToHtml(words(1000))).toContain("<strong>");
  expect(markdownToHtml(words(5000))).toContain("**word");
  expect(markdownToHtml(`${"word ".repeat(1000)}a*b*c **d** __e__ f_g_h`)).toContain("a<em>b</em>c <strong>d</strong> <strong>e</strong> f_g_h");
});
