/** A call of the server's calculator: what the model asked, and what it was told. */

import { Icon } from "./icon";

export function ToolCard({ expression, result }: { expression: string; result: string | null }) {
  return (
    <details class="tool-card">
      <summary>
        <Icon name="calculator" />
        <span class="tool-name">Calculator</span>
        <code>{expression || "…"}</code>
        <span class="tool-arrow" aria-label="gives">
          →
        </span>
        <code class="tool-result">{result ?? "…"}</code>
        <span class="tool-chevron">
          <Icon name="down" size={16} />
        </span>
      </summary>
      <dl>
        <dt>The model wrote</dt>
        <dd>
          <code>{expression}</code>
        </dd>
        <dt>The calculator answered</dt>
        <dd>
          <code>{result ?? "nothing yet"}</code>
        </dd>
      </dl>
      <p>
        The model only writes the expression. The server works it out and puts the result into the reply, and the
        model goes on from there.
      </p>
    </details>
  );
}
