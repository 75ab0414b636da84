/** The conversation as the model reads it: one run of tokens, with the marks around each message. */

import { useEffect, useState } from "preact/hooks";
import type { Tokenized } from "../api/wire";
import { directionOf } from "../conversation/direction";
import { toolsOf } from "../conversation/entries";
import { messagesForModel } from "../conversation/for-model";
import type { Message } from "../conversation/message";
import { isRunning } from "../conversation/message";
import { named, t } from "../messages/language";
import { fixed } from "../messages/numbers";
import { problemOf } from "../state/problems";
import { focusWhenLost } from "../state/focus";
import { useWorkbench } from "../state/workbench";
import { visibleText } from "./token-text";

export function PromptSheet() {
  const bench = useWorkbench();
  const { talk } = bench;
  const upTo = bench.view.promptOf.value;
  const path = talk?.path.value.map((id) => talk.message(id)!.value) ?? [];
  const at = upTo === null ? -1 : path.findIndex((message) => message.id === upTo);
  const before = at < 0 ? path.filter((message) => !isRunning(message)) : path.slice(0, at);
  const reply = at < 0 ? path.at(-1) : path[at];
  const seenFrom = reply?.role === "assistant" ? reply.seenFrom : null;
  const shown = seenFrom === null ? before : before.slice(before.findIndex((message) => message.id === seenFrom));
  const { tokenized, complaint } = useTokenized(shown, path.length > 0 && !path.some(isRunning));
  return (
    <div class="prompt">
      <p class="sheet-note">
        {upTo === null
          ? t.prompt.beforeNext
          : t.prompt.beforeReply}
      </p>
      {upTo !== null && (
        <button type="button" class="button" onClick={() => {
          bench.view.promptOf.value = null;
          focusWhenLost(() => document.querySelector<HTMLElement>(".sheet-body"));
        }}>
          {t.prompt.showWhole}
        </button>
      )}
      {path.length === 0 && <p class="sheet-note">{t.prompt.nothing}</p>}
      {complaint && <p class="problem">{complaint}</p>}
      {tokenized && tokenized.tokenized.count > tokenized.tokenized.max_model_len && (
        <p class="problem" role="status">
          {t.prompt.tooMuch(tokenized.tokenized.count, tokenized.tokenized.max_model_len)}{" "}
          {bench.settings.value.keepWhole ? t.prompt.notSent : t.prompt.newestOnly}
        </p>
      )}
      {tokenized && <Rendered {...tokenized} />}
    </div>
  );
}

interface Asked {
  tokenized: Tokenized;
  /** How many messages were asked about; the server lists the reply's turn, which is open, as one more. */
  numMessages: number;
}

/** What the server makes of the messages; the last answer stays until there is a new one. */
function useTokenized(path: readonly Message[], isSettled: boolean) {
  const bench = useWorkbench();
  const settings = bench.settings.value;
  const [tokenized, setTokenized] = useState<Asked | null>(null);
  const [complaint, setComplaint] = useState("");
  const messages = messagesForModel(settings.system, path).map(({ wire }) => wire);
  const asked = JSON.stringify([messages, settings.tools]);
  useEffect(() => {
    if (!isSettled || messages.length === 0) {
      return;
    }
    const controller = new AbortController();
    const model = bench.models.chosen(settings)?.id ?? "";
    const tools = settings.tools === undefined ? undefined : toolsOf(settings.tools);
    bench.server
      .tokenize(model, messages, messages.at(-1)?.role !== "assistant", controller.signal, tools)
      .then((answer) => {
        setTokenized({ tokenized: answer, numMessages: messages.length });
        setComplaint("");
      })
      .catch((error: unknown) => {
        if (!controller.signal.aborted) {
          setComplaint(problemOf(error).message);
        }
      });
    return () => controller.abort();
  }, [asked, isSettled]);
  return { tokenized, complaint };
}

function Rendered({ tokenized, numMessages }: Asked) {
  const { tokens, count: total, max_model_len: contextLength, cached_tokens: cached } = tokenized;
  const sections = sectionsOf(tokenized, numMessages);
  const most = Math.max(total, contextLength);
  return (
    <>
      <div class="prompt-bar" role="img" aria-label={t.prompt.bar(total, contextLength)}>
        {sections.map(({ role, start, end }, index) => (
          <i key={index} class={`is-${role}`} style={{ width: `${(100 * (end - start)) / most}%` }} />
        ))}
      </div>
      <i class="prompt-cached" style={{ width: `${(100 * cached) / most}%` }} />
      <dl class="prompt-figures">
        <div>
          <dt>{t.prompt.tokens}</dt>
          <dd>{fixed(total)}</dd>
        </div>
        <div>
          <dt>{t.prompt.cached}</dt>
          <dd>{fixed(cached)}</dd>
        </div>
        <div>
          <dt>{t.prompt.context}</dt>
          <dd>{fixed(contextLength)}</dd>
        </div>
      </dl>
      <p class="prompt-legend">
        <span class="prompt-token is-special">{t.prompt.mark}</span> <span class="prompt-token is-cached">{t.prompt.cached}</span>{" "}
        <span class="prompt-token">{t.prompt.toCompute}</span>
      </p>
      <ol class="prompt-messages">
        {sections.map(({ role, start, end }, index) => (
          <li key={index} class={`is-${role}`}>
            <h3>
              {named(t.prompt.roles, role)} <span>{t.common.tokens(end - start)}</span>
            </h3>
            <p dir={directionOf(tokenized.token_strs.slice(start, end).filter((_, offset) => !tokenized.special[start + offset]).join(""))}>
              {tokens.slice(start, end).map((id, offset) => (
                <PromptToken key={offset} tokenized={tokenized} id={id} index={start + offset} isCached={start + offset < cached} />
              ))}
            </p>
          </li>
        ))}
      </ol>
    </>
  );
}

interface TokenProps {
  tokenized: Tokenized;
  id: number;
  index: number;
  isCached: boolean;
}

function PromptToken({ tokenized, id, index, isCached }: TokenProps) {
  const isSpecial = tokenized.special[index] ?? false;
  const text = tokenized.token_strs[index] ?? "";
  return (
    <span
      class={`prompt-token ${isSpecial ? "is-special" : ""} ${isCached ? "is-cached" : ""}`}
      title={t.prompt.token(id, isCached)}
    >
      {isSpecial ? text.replace(/^<\||\|>$/g, "") : visibleText(text)}
    </span>
  );
}

interface Section {
  role: string;
  start: number;
  end: number;
}

/** The messages, and the marks before the first and after the last of them. */
function sectionsOf({ messages, count: total }: Tokenized, numMessages: number): Section[] {
  const asked = messages.slice(0, numMessages);
  const first = asked[0]?.start ?? total;
  const last = asked.at(-1)?.end ?? 0;
  return [
    ...(first > 0 ? [{ role: "beginning", start: 0, end: first }] : []),
    ...asked,
    ...(last < total ? [{ role: "reply to come", start: last, end: total }] : []),
  ];
}
