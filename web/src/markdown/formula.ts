/** LaTeX formulas by KaTeX. Loaded on demand. */

import katex from "katex";
import "katex/dist/katex.min.css";
import { escapeHtml } from "./to-html";

/** The HTML of a formula; for one that is wrong, its source, marked as such. Untrusted: no links, no HTML. */
export function formula(source: string, isDisplayed: boolean): string {
  try {
    return katex.renderToString(source, {
      displayMode: isDisplayed,
      throwOnError: false,
      errorColor: "var(--danger)",
      maxExpand: 200,
      maxSize: 20,
      trust: false,
      strict: "ignore",
    });
  } catch {
    // Braces within braces by the thousand: KaTeX calls itself for each, until there is no stack left.
    return `<code class="formula" dir="ltr">${escapeHtml(source)}</code>`;
  }
}
