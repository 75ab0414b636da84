/** Asks a model that is served here one of the prompts now, and shows the reply as its tokens. */

import { useEffect, useRef, useState } from "preact/hooks";
import { Server } from "../api/server";
import { ReplyTokens } from "../components/reply-tokens";
import type { Alternative, Token } from "../conversation/message";
import { idsOf, pickedToken, tokensOfStep } from "../conversation/tokens";
import { t } from "../messages/language";
import { keptKey, sessionKey } from "../storage/preferences";

const SEED = 1;
const MOST_TOKENS = 200;

export function Asked({ model, prompt }: { model: string; prompt: string }) {
  const [tokens, setTokens] = useState<readonly Token[] | null>(null);
  const [problem, setProblem] = useState("");
  const controller = useRef<AbortController | null>(null);
  useEffect(() => () => controller.current?.abort(), []);

  /** The reply, which begins with the tokens in `prefix`. */
  async function ask(prefix: readonly Token[]) {
    controller.current?.abort();
    const { signal } = (controller.current = new AbortController());
    let all = prefix;
    setTokens(all);
    setProblem("");
    try {
      const request = { model, messages: [{ role: "user" as const, content: prompt }], seed: SEED, max_completion_tokens: MOST_TOKENS };
      const server = new Server(() => sessionKey.value || keptKey.value);
      for await (const step of server.reply({ ...request, ...(prefix.length > 0 && { assistant_prefix_ids: idsOf(prefix) }) }, signal)) {
        all = [...all, ...tokensOfStep(step)];
        setTokens(all);
      }
    } catch (error) {
      if (!signal.aborted) {
        setProblem((error as Error).message);
      }
    }
  }

  function pick(index: number, alternative: Alternative) {
    void ask([...tokens!.slice(0, index), pickedToken(tokens![index]!, alternative)]);
  }

  return (
    <div class="asked">
      <button type="button" class="button" onClick={() => void ask([])}>
        {tokens ? t.runs.askAgain(model) : t.runs.ask(model)}
      </button>
      {tokens && tokens.length > 0 && <ReplyTokens tokens={tokens} onPick={pick} />}
      {problem && (
        <p class="sample-note" role="alert">
          {problem}
        </p>
      )}
    </div>
  );
}
