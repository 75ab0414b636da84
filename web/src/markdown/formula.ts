/** LaTeX formulas by KaTeX. Loaded on demand. */

import katex from "katex";
import "katex/dist/katex.min.css";

/** The HTML of a formula; for one that is wrong, its source, marked as such. Untrusted: no links, no HTML. */
export function formula(source: string, isDisplayed: boolean): string {
  return katex.renderToString(source, {
    displayMode: isDisplayed,
    throwOnError: false,
    errorColor: "var(--danger)",
    maxExpand: 200,
    maxSize: 20,
    trust: false,
    strict: "ignore",
  });
}
