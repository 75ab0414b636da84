/** Calls of tools: what the model asked, and what it was told. */

import { useState } from "preact/hooks";
import type { Reply } from "../conversation/message";
import { t } from "../messages/language";
import { useWorkbench } from "../state/workbench";
import { Icon } from "./icon";

/** A call of the server's calculator. */
export function ToolCard({ expression, result }: { expression: string; result: string | null }) {
  return (
    <details class="tool-card">
      <summary>
        <Icon name="calculator" />
        <span class="tool-name">{t.tools.calculator}</span>
        <code>{expression || "…"}</code>
        <span class="tool-arrow" aria-label={t.tools.gives}>
          →
        </span>
        <code class="tool-result">{result ?? "…"}</code>
        <span class="tool-chevron">
          <Icon name="down" size={16} />
        </span>
      </summary>
      <dl>
        <dt>{t.tools.modelWrote}</dt>
        <dd>
          <code>{expression}</code>
        </dd>
        <dt>{t.tools.answered}</dt>
        <dd>
          <code>{result ?? t.tools.nothingYet}</code>
        </dd>
      </dl>
      <p>{t.tools.explained}</p>
    </details>
  );
}

/** Calls of the person's own tools; and, once the reply is whole, the fields to answer them. */
export function Calls({ reply, isLast }: { reply: Reply; isLast: boolean }) {
  const bench = useWorkbench();
  const calls = reply.calls ?? [];
  const [answers, setAnswers] = useState<Readonly<Record<string, string>>>({});
  if (calls.length === 0) {
    return null;
  }
  const isAsked = isLast && reply.state === "done";
  const answer = (event: Event) => {
    event.preventDefault();
    bench.answerCalls(reply, calls.map(({ id }) => ({ id, text: answers[id] ?? "" })));
  };
  return (
    <form class="calls" onSubmit={answer}>
      {calls.map(({ id, name, arguments: given }) => (
        <div key={id} class="tool-card call">
          <div class="call-head">
            <Icon name="calculator" />
            <b>{name}</b>
            <code>{given}</code>
          </div>
          {isAsked && (
            <input
              dir="auto"
              aria-label={t.tools.whatAnswers(name)}
              placeholder={t.tools.whatAnswers(name)}
              value={answers[id] ?? ""}
              onInput={(event) => setAnswers({ ...answers, [id]: event.currentTarget.value })}
            />
          )}
        </div>
      ))}
      {isAsked && (
        <button type="submit" class="button">
          {t.tools.give(calls.length)}
        </button>
      )}
    </form>
  );
}
