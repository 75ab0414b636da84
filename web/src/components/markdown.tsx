/** Markdown as it grows: finished blocks are drawn once and left alone. */

import { useMemo, useRef } from "preact/hooks";
import { artists, need } from "../markdown/artists";
import { GrowingMarkdown } from "../markdown/growing";
import { sanitize } from "../markdown/sanitize";
import { escapeHtml, markdownToHtml, wants, type Artists } from "../markdown/to-html";
import { useWorkbench } from "../state/workbench";

export function Markdown({ text }: { text: string }) {
  const bench = useWorkbench();
  const growing = useRef<GrowingMarkdown>(null);
  growing.current ??= new GrowingMarkdown();

  function onClick(event: MouseEvent) {
    const button = (event.target as Element).closest(".code-copy");
    const code = button?.closest(".code-block")?.querySelector("pre")?.textContent;
    if (code != null) {
      void bench.copy(code.replace(/\n$/, ""));
    }
  }

  return (
    <div class="markdown" onClick={onClick}>
      {blocksOf(growing.current, text).map((block, index) => (
        <Block key={index} source={block} />
      ))}
    </div>
  );
}

/** The blocks of a text; if Markdown cannot be made of it, the text as one. */
function blocksOf(growing: GrowingMarkdown, text: string): readonly string[] {
  try {
    return growing.update(text);
  } catch {
    return [text];
  }
}

/** The HTML of a block; if none can be made of it, the characters that it consists of. */
function htmlOf(source: string, using: Artists): string {
  try {
    return sanitize(markdownToHtml(source, using));
  } catch {
    return sanitize(`<pre class="as-written">${escapeHtml(source)}</pre>`);
  }
}

function Block({ source }: { source: string }) {
  const using = artists.value;
  const html = useMemo(() => htmlOf(source, using), [source, using]);
  const wanted = useMemo(() => wants(source), [source]);
  if (wanted.highlight) {
    need("highlight");
  }
  if (wanted.formula) {
    need("formula");
  }
  // The same element as before is not looked at again. (No `memo`: it comes with preact/compat, which would turn every
  // onChange of the page into oninput.) The HTML was sanitized just above.
  return useMemo(() => (html.trim() === "" ? null : <div class="block" dangerouslySetInnerHTML={{ __html: html }} />), [html]);
}
