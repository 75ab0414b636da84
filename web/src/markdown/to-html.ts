/**
 * Markdown to HTML, as a model writes it: GitHub's flavour, and formulas between $…$, $$…$$, \(…\) or \[…\] or
 * in an environment of their own.
 *
 * HTML in the Markdown is shown as the characters it is made of, an image as a link to it (the page loads nothing
 * from elsewhere), and a link leads to http, https or mail addresses only. The result is still to be sanitized:
 * `Markdown` hands it to DOMPurify. No DOM is needed here.
 */

import {
  Lexer,
  Marked,
  Tokenizer,
  type RendererObject,
  type TokenizerAndRendererExtension,
  type TokenizerObject,
  type Tokens,
} from "marked";

import { directionOf } from "../conversation/direction";
import { t } from "../messages/language";

/** What draws code and formulas once it is loaded; until then they are shown as they are written. */
export interface Artists {
  highlight: ((code: string, language: string) => string | null) | null;
  formula: ((source: string, isDisplayed: boolean) => string) | null;
}

const NO_ARTISTS: Artists = { highlight: null, formula: null };
// Marked has no way to hand values to a renderer: they are set for the length of one synchronous call.
let artists = NO_ARTISTS;

export function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}

/** Whether a link may lead there. */
export function isSafeAddress(address: string): boolean {
  return /^(https?:\/\/|mailto:)/i.test(address);
}

/**
 * The attribute that says which way a block is written whose own text stands in blocks within it: `dir="auto"` does not
 * look into those that have a direction themselves. Code does not count.
 */
function directed(text: string): string {
  const direction = directionOf(text.replace(/(`+)[\s\S]*?\1/g, ""));
  return direction ? ` dir="${direction}"` : "";
}

const renderer: RendererObject = {
  html({ text }) {
    return escapeHtml(text);
  },
  link({ href, tokens }) {
    const text = this.parser.parseInline(tokens);
    return isSafeAddress(href) ? `<a href="${escapeHtml(href)}">${text}</a>` : text;
  },
  image({ href, text }) {
    const label = escapeHtml(text || "image");
    return isSafeAddress(href) ? `<a href="${escapeHtml(href)}">${label}</a>` : label;
  },
  paragraph({ tokens }) {
    return `<p dir="auto">${this.parser.parseInline(tokens)}</p>\n`;
  },
  heading({ tokens, depth }) {
    return `<h${depth} dir="auto">${this.parser.parseInline(tokens)}</h${depth}>\n`;
  },
  blockquote({ tokens, text }) {
    return `<blockquote${directed(text)}>\n${this.parser.parse(tokens)}</blockquote>\n`;
  },
  list({ items, ordered, start, raw }) {
    const tag = ordered ? "ol" : "ul";
    const first = ordered && start !== "" && start !== 1 ? ` start="${start}"` : "";
    return `<${tag}${first}${directed(raw)}>\n${items.map((item) => this.listitem(item)).join("")}</${tag}>\n`;
  },
  listitem({ tokens, text, task }) {
    return `<li${directed(text)}${task ? ` class="task"` : ""}>${this.parser.parse(tokens)}</li>\n`;
  },
  tablecell({ tokens, header, align }) {
    const tag = header ? "th" : "td";
    return `<${tag} dir="auto"${align ? ` align="${align}"` : ""}>${this.parser.parseInline(tokens)}</${tag}>\n`;
  },
  codespan({ text }) {
    return `<code dir="ltr">${escapeHtml(text)}</code>`;
  },
  checkbox({ checked }) {
    return checked ? "☑ " : "☐ ";
  },
  code({ text, lang }) {
    const language = /^[\w+#-]+/.exec(lang ?? "")?.[0] ?? "";
    const html = (language && artists.highlight?.(text, language)) || escapeHtml(text);
    const name = `<span class="code-language">${escapeHtml(language || "text")}</span>`;
    return (
      `<div class="code-block" dir="ltr"><div class="code-head">${name}` +
      `<button type="button" class="code-copy">${escapeHtml(t.common.copy)}</button></div>` +
      `<pre tabindex="0"><code data-language="${escapeHtml(language)}">${html}\n</code></pre></div>\n`
    );
  },
  table(token) {
    const row = (cells: Tokens.TableCell[]) => `<tr>${cells.map((cell) => this.tablecell(cell)).join("")}</tr>`;
    const body = token.rows.map(row).join("");
    return `<div class="table" tabindex="0"><table${directed(token.raw)}><thead>${row(token.header)}</thead><tbody>${body}</tbody></table></div>`;
  },
};

/** Quotes and lists within each other, at most; what is nested more deeply is shown as the characters it is made of. */
const MOST_LEVELS = 24;
// Marked calls itself for what is in a quote or a list. Like `artists`, this holds within one synchronous call.
let levels = 0;

/** What `read` returns, one level further in; nothing where that would be too deep. */
function within<T>(read: () => T | undefined): T | undefined {
  if (levels >= MOST_LEVELS) {
    return undefined;
  }
  levels += 1;
  try {
    return read();
  } finally {
    levels -= 1;
  }
}

/** Emphasis over more characters is none: every sign that might begin one would have the whole text looked through. */
const EMPHASIZED = 2000;
/** What stands before a sign says whether it begins an emphasis. */
const BEFORE = 100;

const tokenizer: TokenizerObject = {
  emStrong(source, masked, before) {
    const at = masked.length - source.length;
    const near = masked.slice(Math.max(0, at - BEFORE), at + EMPHASIZED);
    return Tokenizer.prototype.emStrong.call(this, source.slice(0, EMPHASIZED), near, before);
  },
  blockquote(source) {
    return within(() => Tokenizer.prototype.blockquote.call(this, source));
  },
  list(source) {
    return within(() => Tokenizer.prototype.list.call(this, source));
  },
  /** A bar within a formula ends no cell. The backslashes that say so are no part of the source. */
  table(source) {
    const bars = barsInFormulas(source);
    if (bars.length === 0) {
      return false;
    }
    const pieces = [0, ...bars].map((bar, index) => source.slice(bar, bars[index]));
    const table = Tokenizer.prototype.table.call(this, pieces.join("\\"));
    if (table) {
      const length = bars.reduce((end, bar, index) => (bar + index < table.raw.length ? end - 1 : end), table.raw.length);
      table.raw = source.slice(0, length);
    }
    return table;
  },
};

interface FormulaToken extends Tokens.Generic {
  source: string;
  isDisplayed: boolean;
}

function drawFormula(token: Tokens.Generic): string {
  const { source, isDisplayed } = token as FormulaToken;
  if (artists.formula) {
    return artists.formula(source, isDisplayed);
  }
  const code = `<code class="formula" dir="ltr">${escapeHtml(source)}</code>`;
  return isDisplayed ? `<p>${code}</p>` : code;
}

/** A formula longer than this is none: looking for its end from every beginning would take the square of a text's length. */
const INLINE = 1000;
const BLOCK = 5000;

// As Pandoc and GitHub have it: no space inside the dollars, and no letter or digit right outside, so that prices stay
// prices, and a shell's variables and paths what they are: but the $n$th. Scripts that set no spaces have none here.
const LETTERS = "\\p{Script=Latin}\\p{Script=Greek}\\p{Script=Cyrillic}\\p{Nd}";
const DOLLARS = `\\$(?![\\s$])((?:\\\\.|[^$\\\\\\n]){0,${INLINE}}?[^\\s$\\\\])\\$(?!(?!(?:st|nd|rd|th|s)\\b)[${LETTERS}]|\\$)`;
const DOLLARS_HERE = new RegExp(`^${DOLLARS}`, "u");
const BEFORE_NO_DOLLAR = new RegExp(`[${LETTERS}$\\\\]$`, "u");
/** Of a path in Windows, as in C:\(x86\)\bin. */
const DRIVE = /(?:^|[^A-Za-z])[A-Za-z]:$/;

/** The environments that LaTeX takes without dollars, and KaTeX knows. */
const ENVIRONMENTS = "(?:equation|align|gather|alignat)\\*?|CD";

/** Where in the rows of a table that `source` may begin with a bar stands within a formula. */
function barsInFormulas(source: string): number[] {
  const rows = /^(?:[^\n]*\|[^\n]*(?:\n|$))*/.exec(source)?.[0] ?? "";
  if (!rows.includes("$")) {
    return [];
  }
  const bars: number[] = [];
  for (const match of rows.matchAll(new RegExp(DOLLARS, "gu"))) {
    const isFormula = /[A-Za-z0-9\\]/.test(match[1]!) && !BEFORE_NO_DOLLAR.test(rows.slice(0, match.index));
    for (let at = 0; isFormula && at < match[0].length; at++) {
      if (match[0][at] === "|" && match[0][at - 1] !== "\\") {
        bars.push(match.index + at);
      }
    }
  }
  return bars;
}

function formula(
  level: "block" | "inline",
  start: RegExp,
  shapes: readonly [RegExp, boolean, unless?: RegExp][],
): TokenizerAndRendererExtension {
  return {
    name: `formula-${level}`,
    level,
    start: (text) => start.exec(text)?.index,
    tokenizer(text, tokens) {
      for (const [shape, isDisplayed, unless] of shapes) {
        const match = shape.exec(text);
        if (match && !unless?.test(tokens.at(-1)?.raw ?? "")) {
          return { type: `formula-${level}`, raw: match[0], source: match[1]!.trim(), isDisplayed };
        }
      }
      return undefined;
    },
    renderer: drawFormula,
  };
}

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer,
  tokenizer,
  extensions: [
    formula("block", /(?<=\n)(?:\$\$|\\\[|\\begin\{)/, [
      [new RegExp(`^\\$\\$([^$]{1,${BLOCK}}?)\\$\\$[ \\t]*(?:\\n|$)`), true],
      [new RegExp(`^\\\\\\[([\\s\\S]{1,${BLOCK}}?)\\\\\\][ \\t]*(?:\\n|$)`), true],
      [new RegExp(`^(\\\\begin\\{(${ENVIRONMENTS})\\}[\\s\\S]{1,${BLOCK}}?\\\\end\\{\\2\\})[ \\t]*(?:\\n|$)`), true],
    ]),
    formula("inline", /\$|\\[([]/, [
      [new RegExp(`^\\$\\$([^$]{1,${BLOCK}}?)\\$\\$`), true, BEFORE_NO_DOLLAR],
      [new RegExp(`^\\\\\\[([\\s\\S]{1,${BLOCK}}?)\\\\\\]`), true, DRIVE],
      [new RegExp(`^\\\\\\(([\\s\\S]{1,${INLINE}}?)\\\\\\)(?!\\\\[A-Za-z])`), false, DRIVE],
      [DOLLARS_HERE, false, BEFORE_NO_DOLLAR],
    ]),
  ],
});

/** The blocks of `text`, each with what is in it. */
export function lex(text: string) {
  return marked.lexer(text);
}

/**
 * The sources of the top-level blocks of `text`, blank lines between them included; together they are the text.
 *
 * Marked trims the source of some blocks. From a block on whose source is not found in its place, the rest is one.
 */
export function blockSources(text: string): string[] {
  const sources: string[] = [];
  let at = 0;
  // What is within the blocks is read once they are drawn.
  for (const { raw } of new Lexer(marked.defaults).blockTokens(text.replace(/\r\n|\r/g, "\n"))) {
    if (!text.startsWith(raw, at)) {
      break;
    }
    sources.push(raw);
    at += raw.length;
  }
  return at < text.length ? [...sources, text.slice(at)] : sources;
}

/** The HTML of `source`, not yet sanitized. */
export function markdownToHtml(source: string, using: Artists = NO_ARTISTS): string {
  artists = using;
  try {
    return marked.parse(source, { async: false });
  } finally {
    artists = NO_ARTISTS;
  }
}

/** Whether `source` has code that would be coloured, or formulas that would be drawn. */
export function wants(source: string): { highlight: boolean; formula: boolean } {
  return { highlight: /(^|\n)\s*(```|~~~)\s*\w/.test(source), formula: /\$[^\s]|\\(?:[([]|begin\{)/.test(source) };
}
