/** How much of what the model can see at once the conversation takes, and what happens when it is full. */

import type { Reply } from "../conversation/message";
import { useWorkbench } from "../state/workbench";
import { count } from "./figures";

const NEARLY_FULL = 0.75;

export function ContextGauge() {
  const bench = useWorkbench();
  const talk = bench.talk;
  const contextLength = bench.models.contextLength(bench.settings.value);
  const last = talk?.path.value
    .map((id) => talk.message(id)!.value)
    .findLast((message): message is Reply => message.role === "assistant" && message.figures !== null);
  const used = last?.figures?.contextUsed ?? 0;
  if (contextLength === null || used === 0) {
    return <p class="gauge">Conversations stay in this browser.</p>;
  }
  const share = Math.min(1, used / contextLength);
  const hasForgotten = last?.seenFrom != null;
  const isNearlyFull = hasForgotten || share >= NEARLY_FULL;
  return (
    <div class={`gauge ${isNearlyFull ? "is-nearly-full" : ""}`}>
      <span class="gauge-bar" aria-hidden="true" style={{ "--share": `${100 * share}%` }} />
      <span>
        {count(used)} of {count(contextLength)} tokens
      </span>
      {isNearlyFull && (
        <span role="status">
          {bench.settings.value.keepWhole
            ? "Nearly full: soon you will have to begin a new conversation."
            : hasForgotten
              ? "The oldest turns are left out of what the model sees."
              : "Nearly full: the oldest turns will be left out of what the model sees."}
        </span>
      )}
    </div>
  );
}
