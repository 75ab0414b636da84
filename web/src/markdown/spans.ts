/** What Markdown makes of each stretch of a text, for where the characters themselves are to stay: a reply's tokens. */

import { lex } from "./to-html";

/** A stretch of the text and the names of what it is in, as `is-strong is-code`. */
export interface Span {
  from: number;
  to: number;
  kinds: string;
}

interface Node {
  type: string;
  raw: string;
  depth?: number;
  tokens?: Node[];
  items?: Node[];
}

const KINDS: Readonly<Record<string, string>> = {
  strong: "is-strong",
  em: "is-em",
  del: "is-del",
  codespan: "is-code",
  code: "is-code",
  blockquote: "is-quote",
  "formula-inline": "is-em",
  "formula-block": "is-em",
};

/** The stretches that are something, outer ones before those within them. What cannot be found again is left plain. */
export function spansOf(text: string): Span[] {
  const spans: Span[] = [];
  const walk = (nodes: readonly Node[], from: number, end: number, outer: string) => {
    let at = from;
    for (const node of nodes) {
      const start = text.indexOf(node.raw, at);
      const to = start + node.raw.length;
      if (start < 0 || to > end) {
        continue;
      }
      const kind = node.type === "heading" ? `is-heading is-h${node.depth}` : (KINDS[node.type] ?? "");
      const kinds = kind ? `${outer} ${kind}`.trim() : outer;
      if (kind) {
        spans.push({ from: start, to, kinds });
      }
      walk(node.items ?? node.tokens ?? [], start, to, kinds);
      at = to;
    }
  };
  walk(lex(text) as Node[], 0, text.length, "");
  return spans;
}

/** What each of `texts`, which together are a text, is in: by its first character that is no space. */
export function kindsOf(texts: readonly string[]): string[] {
  const spans = spansOf(texts.join(""));
  let at = 0;
  return texts.map((text) => {
    const first = at + Math.max(0, text.search(/\S/));
    at += text.length;
    return spans.findLast(({ from, to }) => from <= first && first < to)?.kinds ?? "";
  });
}
