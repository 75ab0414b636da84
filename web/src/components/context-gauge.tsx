/** How much of what the model can see at once the conversation and the draft take, and what happens when it is full. */

import { useEffect, useState } from "preact/hooks";
import type { Reply } from "../conversation/message";
import { t } from "../messages/language";
import { whole, type Draft } from "../state/drafts";
import { roomForReply } from "../state/fitting";
import { useWorkbench } from "../state/workbench";

const NEARLY_FULL = 0.75;

interface Props {
  draft: Draft;
  onShorten: (shorter: Draft) => void;
}

export function ContextGauge({ draft, onShorten }: Props) {
  const bench = useWorkbench();
  const talk = bench.talk;
  const settings = bench.settings.value;
  const contextLength = bench.models.contextLength(settings);
  const last = talk?.path.value
    .map((id) => talk.message(id)!.value)
    .findLast((message): message is Reply => message.role === "assistant" && message.figures !== null);
  const before = last?.figures?.contextUsed ?? 0;
  const { tokens: written, isExact } = useTokensOf(draft);
  const used = before + written;
  if (contextLength === null || used === 0) {
    return <p class="gauge">{t.gauge.stay}</p>;
  }
  const most = contextLength - roomForReply(settings, contextLength);
  if (written > most) {
    const shorten = () => {
      onShorten(shortened(draft, most / written));
      bench.view.tell({ text: t.gauge.cutOff, action: { label: t.common.undo, run: () => onShorten(draft) } });
      document.querySelector<HTMLElement>("#message")?.focus();
    };
    return (
      <div class="gauge is-nearly-full">
        <span class="gauge-bar" aria-hidden="true" style={{ "--share": "100%" }} />
        <span role="status">
          {t.gauge.tooLong(written, isExact, most, contextLength - most)}
        </span>
        <button type="button" class="button" onClick={shorten}>
          {t.gauge.shorten}
        </button>
      </div>
    );
  }
  const share = Math.min(1, used / contextLength);
  const hasForgotten = last?.seenFrom != null;
  const isNearlyFull = hasForgotten || share >= NEARLY_FULL;
  return (
    <div class={`gauge ${isNearlyFull ? "is-nearly-full" : ""}`}>
      <span class="gauge-bar" aria-hidden="true" style={{ "--share": `${100 * share}%` }} />
      <span>{t.gauge.used(used, contextLength, written === 0 || isExact, written > 0)}</span>
      {isNearlyFull && (
        <span role="status">
          {settings.keepWhole
            ? t.gauge.fullSoon
            : hasForgotten
              ? t.gauge.leftOut
              : t.gauge.leftOutSoon}
        </span>
      )}
    </div>
  );
}

/** A guess, until the server has counted a first text. */
const CHARACTERS_PER_TOKEN = 3;
/** Texts up to this length the server counts; of longer ones the guess is good enough. */
const MOST_COUNTED = 50_000;
const COUNT_MILLISECONDS = 350;

/** The tokens of a draft: at once by a guess, and, once typing pauses, as the server counts them. */
function useTokensOf(draft: Draft): { tokens: number; isExact: boolean } {
  const bench = useWorkbench();
  const [counted, setCounted] = useState({ text: "", tokens: 0, rate: CHARACTERS_PER_TOKEN });
  const isCommand = draft.pasted.length === 0 && draft.text.startsWith("/");
  const length = isCommand ? 0 : draft.text.length + draft.pasted.reduce((sum, { text }) => sum + text.length, 0);
  const model = bench.models.chosen(bench.settings.value)?.id;
  useEffect(() => {
    if (length === 0 || length > MOST_COUNTED || !model || !bench.models.isReady.peek()) {
      return;
    }
    const controller = new AbortController();
    const timer = setTimeout(() => {
      const text = whole(draft);
      bench.server
        .tokenize(model, [{ role: "user", content: text }], false, controller.signal)
        .then(({ count: tokens }) => tokens > 0 && setCounted({ text, tokens, rate: Math.max(0.2, text.length / tokens) }))
        .catch(() => undefined); // the guess stays
    }, COUNT_MILLISECONDS);
    return () => {
      clearTimeout(timer);
      controller.abort();
    };
  }, [draft, model]);
  if (length === 0) {
    return { tokens: 0, isExact: true };
  }
  const isExact = length <= MOST_COUNTED && counted.text === whole(draft);
  return { tokens: isExact ? counted.tokens : Math.ceil(length / counted.rate), isExact };
}

/** A little less than what would fit by the count, since a guess may have made it. */
const SAFETY = 0.9;

/** The beginning of a draft, this share of it. */
function shortened(draft: Draft, share: number): Draft {
  const text = whole(draft);
  return { text: text.slice(0, Math.floor(text.length * share * SAFETY)).replace(/\s+\S*$/, ""), pasted: [] };
}
